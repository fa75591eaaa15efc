"""Record shards as tools/pack.py writes them: random access, a batch of records at a time.

PATH holds SPLIT.json (size, shape, format, classes, label counts, shards) and the shards it names.
A record is the label (int32), the image's length in bytes (uint32), both little-endian, the image
(raw uint8 [h w c], PNG or JPEG), and the captions as a JSON list, or nothing.
"""

import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from input_pipeline import resize
from input_pipeline.source import (
    MAX_BAD_SHARE,
    MEMORY_LIMIT,
    WORKERS,
    Batch,
    Source,
    Unreadable,
    checked_captions,
    checked_shape,
    column,
    digest_of,
    empty_batch,
    held,
    read_each,
)

HEADER = struct.Struct("<iI")
FORMATS = ("raw", "png", "jpeg")


def encode(image: bytes, label: int, captions: Sequence[str] = ()) -> bytes:
    """One record: `image` bytes, an int label, and captions (str)."""
    text = json.dumps(list(captions)).encode() if captions else b""
    return HEADER.pack(label, len(image)) + image + text


def decode(record: bytes) -> tuple[bytes, int, list[str]]:
    """(image bytes, label, captions) of one record."""
    label, length = HEADER.unpack_from(record)
    end = HEADER.size + length
    return record[HEADER.size : end], label, json.loads(record[end:] or "[]")


def array_record_module():
    """array_record's module, imported when first needed; ValueError where it is not installed."""
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise ValueError("record shards need array_record: pip install 'array_record>=0.8'") from error
    return array_record_module


class Shards:
    """The records of several files as one sequence; a file is opened when first read."""

    def __init__(self, paths, sizes):
        self.paths, self.sizes = paths, sizes
        self.ends = np.cumsum(sizes)
        self.readers = {}

    def _reader(self, shard):
        if shard not in self.readers:  # two threads may both open it: the later one stays
            self.readers[shard] = array_record_module().ArrayRecordReader(str(self.paths[shard]))
        return self.readers[shard]

    def _place(self, indices):
        """(shard, record within it) of each index."""
        shards = np.searchsorted(self.ends, indices, side="right")
        return shards, indices - (self.ends - self.sizes)[shards]

    def name(self, index):
        shard, record = self._place(index)
        return f"{self.paths[shard].name}:{record}"

    def read(self, indices):
        """The records (bytes) at `indices`, in that order; RuntimeError where one is damaged."""
        shards, within = self._place(np.asarray(indices))
        records = [None] * len(within)
        for shard in np.unique(shards):
            rows = np.flatnonzero(shards == shard)
            for row, record in zip(rows, self._reader(shard).read(within[rows]), strict=True):
                records[row] = record
        return records


def read_index(path: str, split: str, tool: str = "tools/pack.py") -> dict:
    """The index that `tool` wrote for a split; ValueError where there is none."""
    file = Path(path).expanduser() / f"{split}.json"
    if not file.is_file():
        splits = sorted(other.stem for other in file.parent.glob("*.json"))
        raise ValueError(f"{file} is missing; splits there: {splits}; {tool} makes it")
    return json.loads(file.read_text())


def open_shards(path: str, index: dict) -> Shards:
    """The shards that an index names; ValueError where one is missing or cut off."""
    paths = [Path(path).expanduser() / shard["file"] for shard in index["shards"]]
    for file, shard in zip(paths, index["shards"], strict=True):
        found = file.stat().st_size if file.is_file() else 0
        if found != shard["bytes"]:  # the reader would take such a file for an empty one
            raise ValueError(f"{file} has {found} bytes, not {shard['bytes']}; copy it anew")
    return Shards(paths, np.array([shard["size"] for shard in index["shards"]], np.int64))


def read_raw(records: Sequence[bytes], shape: tuple) -> Batch:
    """A batch of raw records through one buffer, without a Python step for each pixel array."""
    length = HEADER.size + int(np.prod(shape))
    flat = np.frombuffer(b"".join(record[:length] for record in records), np.uint8)
    flat = flat.reshape(len(records), length)
    return {
        "image": flat[:, HEADER.size :].reshape(-1, *shape),
        "label": np.ascontiguousarray(flat[:, :4]).view("<i4")[:, 0].astype(np.int32),
        "valid": np.ones(len(records), bool),
    }


def read_encoded(records: Sequence[bytes], shape: tuple) -> Batch:
    """A batch of PNG or JPEG records; raises what Pillow raises."""
    batch = empty_batch(len(records), shape)
    batch["valid"][:] = True
    for row, record in enumerate(records):
        image, batch["label"][row], _ = decode(record)
        batch["image"][row] = resize.decode(io.BytesIO(image), shape)
    return batch


def with_captions(read_batch):
    """The same, captions included; ValueError where a record has none."""

    def read(records, shape):
        captions = [checked_captions(decode(record)[2]) for record in records]
        return read_batch(records, shape) | {"captions": column(captions)}

    return read


def _reader(shards, shape, kind, unreadable, captions):
    """`read` of whole batches; one by one, to tell which, where a batch holds a damaged record."""
    read_batch = read_raw if kind == "raw" else read_encoded
    read_batch = with_captions(read_batch) if captions else read_batch

    def load(index):
        batch = read_batch(shards.read([index]), shape)
        return batch["image"][0], batch["label"][0], captions and batch["captions"][0]

    one_by_one = read_each(load, shards.name, shape, unreadable, captions)

    def read(indices):
        try:
            return read_batch(shards.read(indices), shape)
        except Exception:  # the reader and the decoders have no error in common
            return one_by_one(indices)

    return read


def check_captioned(path: str, split: str, index: dict, max_bad_share: float) -> None:
    """ValueError where too many records have no caption."""
    bare = index["size"] - index["captioned"]
    if bare > max_bad_share * index["size"]:
        raise ValueError(
            f"{bare} of {index['size']} images in {path} {split} have no caption; pack a set with captions, or raise "
            f"max_bad_share={max_bad_share}"
        )


def build(
    split: str,
    *,
    path: str,
    shape: tuple | None = None,
    preprocess: str | None = None,
    captions: bool = False,
    max_bad_share: float = MAX_BAD_SHARE,
    memory_limit: int = MEMORY_LIMIT,
    workers: int = WORKERS,
) -> Source:
    """The `split` under `path`. `shape` and `preprocess`, where given, must be the records' own.

    ValueError where the index or a shard is missing, one of the two differs, or too many are damaged.
    """
    index = read_index(path, split)
    stored = tuple(index["shape"])
    array_record_module()  # now, not in the first batch
    if shape is not None and checked_shape(shape) != stored:
        raise ValueError(f"{path} holds {stored} images, not {tuple(shape)}; pack them at that size")
    if preprocess not in (None, index["preprocess"]):
        packed = index["preprocess"]
        raise ValueError(f"{path} was packed with preprocess={packed!r}, not {preprocess!r}; set it, or pack anew")
    shards, classes, counts = open_shards(path, index), index["classes"], index["label_counts"]
    unreadable = Unreadable(index["size"], max_bad_share)
    if captions:
        check_captioned(path, split, index, max_bad_share)
    source = Source(
        size=index["size"],
        shape=stored,
        classes=classes and tuple(classes),
        label_counts=counts and np.array(counts, np.int64),
        read=_reader(shards, stored, index["format"], unreadable, captions),
        skipped=unreadable.names,
        digest=digest_of([f"{shard['file']} {shard['bytes']}" for shard in index["shards"]]),
        made_of="" if index["skipped"] else index["digest"],
    )
    return held(source, memory_limit, workers)
