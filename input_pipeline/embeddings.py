"""Embeddings of captions made once, as tools/embed_captions.py writes them, read beside their images.

PATH holds SPLIT.json (size, width, length, encoder, the images' digest, shards) and the shards it names. Record i is
for image i: how many captions (uint16), the tokens of each (uint16), then all their rows, bfloat16 [tokens width],
without padding; all little-endian.
"""

from collections.abc import Sequence

import ml_dtypes
import numpy as np

from input_pipeline.arrayrecord import open_shards, read_index
from input_pipeline.captions import choose
from input_pipeline.source import MAX_BAD_SHARE, Source, Unreadable

ROW_TYPE = np.dtype(ml_dtypes.bfloat16)
COUNT = np.dtype("<u2")
MOST = np.iinfo(COUNT).max  # tokens of a caption


def encode(captions: Sequence[np.ndarray]) -> bytes:
    """One record: for each caption its rows [tokens width]."""
    counts = np.array([len(captions), *map(len, captions)], COUNT)
    return counts.tobytes() + b"".join(np.ascontiguousarray(rows, ROW_TYPE).tobytes() for rows in captions)


def decode(record: bytes, width: int, draw: int = 0) -> np.ndarray:
    """The rows [tokens width] of the caption that `draw` chooses; none where there is no caption.

    ValueError where the record has another length than it says.
    """
    count = int(np.frombuffer(record, COUNT, 1)[0])
    ends = np.cumsum([0, *np.frombuffer(record, COUNT, count, COUNT.itemsize)])
    start = (1 + count) * COUNT.itemsize
    if len(record) != start + ends[-1] * width * ROW_TYPE.itemsize:
        raise ValueError(f"{len(record)} bytes do not hold {ends[-1]} rows of {width}")
    rows = np.frombuffer(record, ROW_TYPE, offset=start).reshape(-1, width)
    chosen = int(choose(np.array([count]), np.array([draw], np.uint64))[0])
    return rows[ends[chosen] : ends[chosen + 1]] if count else rows


def embedded(
    source: Source, path: str, split: str, *, width: int, length: int, max_bad_share: float = MAX_BAD_SHARE
) -> Source:
    """Batches with `text` bfloat16 [k length width], 0 at padding, and `text_mask` bool [k length].

    Examples without a caption, and with a damaged record, have valid False. ValueError where the embeddings are of
    another width, of longer captions, or of other images, or too many are damaged.
    """
    index = read_index(path, split, "tools/embed_captions.py")
    if index.get("width") != width or index["length"] > length:
        found = f"{index.get('width')} wide, of captions of up to {index.get('length')} tokens"
        raise ValueError(f"{path} holds embeddings {found}; the encoder is {width} wide and allows {length}")
    if index["digest"] not in (source.digest, source.made_of) or index["size"] != source.size:
        raise ValueError(
            f"{path} {split} holds embeddings of other images ({index['size']}, here {source.size}); "
            "embed the captions of the very set that data.path names"
        )
    shards, unreadable = open_shards(path, index), Unreadable(index["size"], max_bad_share)

    def text(batch, indices, draws):
        rows = np.zeros((len(indices), length, width), ROW_TYPE)
        mask = np.zeros((len(indices), length), bool)
        for i, record in enumerate(_records(shards, indices, unreadable)):
            found = decode(record, width, draws[i])
            rows[i, : len(found)], mask[i, : len(found)] = found, True
        rest = {key: value for key, value in batch.items() if key != "captions"}
        return rest | {"text": rows, "text_mask": mask, "valid": batch["valid"] & mask.any(1)}

    def skipped():
        return [*source.skipped(), *unreadable.names()]

    return source._replace(text=text, skipped=skipped, in_memory=False)


def _records(shards, indices, unreadable):
    """The records at `indices`; one of no captions for each that is damaged."""
    try:
        return shards.read(indices)
    except RuntimeError:  # one by one, to tell which
        return [_record(shards, index, unreadable) for index in indices]


def _record(shards, index, unreadable):
    try:
        return shards.read([index])[0]
    except RuntimeError as error:
        unreadable.add(shards.name(index), error)
        return encode(())
