"""Turn images into resized ArrayRecord shards, which pods read at random: input_pipeline/arrayrecord.py.

    python -m tools.pack --input=DIR --output=OUT --size=64
    python -m tools.pack --input=tfds:NAME --output=OUT --size=64 --split=test --format=png
    python -m tools.pack --input='shards/*.tar' --output=OUT --size=64 --preprocess=adm --shards=128

Killed and started again it goes on after the last finished shard. Images that cannot be read are
left out, counted and named in OUT/SPLIT.json.
"""

import io
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from absl import flags

from input_pipeline import arrayrecord, resize, tfds
from input_pipeline.captions import check_share
from input_pipeline.source import MAX_BAD_SHARE, WORKERS, Unreadable, checked_shape
from tools import command, pack_inputs
from tools.shards import check_settings, local_folder, read_notes, shard_paths, write_json, write_shard

SHARD_BYTES = 2**27  # of raw pixels, where --shards is not given
AT_ONCE = 256  # images in memory while a shard is written
JPEG = {"quality": 95, "subsampling": 0}


def define(add: dict) -> None:
    flags.DEFINE_string("input", None, "A folder, tfds:NAME or a pattern of tars.", required=True, **add)
    flags.DEFINE_string("output", None, "The folder of the shards.", required=True, **add)
    flags.DEFINE_list("size", None, "Side in pixels, or HEIGHT,WIDTH.", required=True, **add)
    flags.DEFINE_enum("channels", "3", ["1", "3"], "1 for grey, 3 for RGB.", **add)
    flags.DEFINE_string("split", "train", "The split to read, and its name in --output.", **add)
    flags.DEFINE_float("held_out", 0.05, "The 'test' share of a folder without its own split.", **add)
    flags.DEFINE_string("data_dir", None, "Where tfds sets lie; default ~/tensorflow_datasets.", **add)
    flags.DEFINE_enum("preprocess", "crop", list(resize.PREPROCESS), "See input_pipeline/resize.py.", **add)
    flags.DEFINE_enum("format", "raw", arrayrecord.FORMATS, "raw is read fastest, jpeg is smallest.", **add)
    flags.DEFINE_integer("shards", 0, "Number of files; 0 for about 128 MB of pixels each.", **add)
    flags.DEFINE_float("max_bad_share", MAX_BAD_SHARE, "More unreadable images are an error.", **add)
    flags.DEFINE_integer("workers", WORKERS, "Decoding threads.", **add)


def image_bytes(pixels: np.ndarray, kind: str) -> bytes:
    """uint8 [h w c] as raw bytes, PNG or JPEG."""
    if kind == "raw":
        return pixels.tobytes()
    file = io.BytesIO()
    resize.picture(pixels).save(file, kind.upper(), **(JPEG if kind == "jpeg" else {}))
    return file.getvalue()


def make_record(index, *, items, shape, preprocess, kind):
    """((record, label, has captions), None), or (None, reason) where the item is unreadable."""
    try:
        value, label, captions = items.load(index)
        pixels = tfds.as_pixels(value, shape, preprocess)
        label = None if label is None else int(label)
        record = arrayrecord.encode(image_bytes(pixels, kind), label or 0, captions)
    except Exception as error:  # decoders raise all sorts on bytes that are not an image
        return None, f"{type(error).__name__}: {error}"
    return (record, label, bool(captions)), None


def fill_shard(put, *, items, indices, make, pool) -> dict:
    """Put the records of a shard; what is in it and what was left out."""
    labels, captioned, skipped = Counter(), 0, {}
    for chunk in np.array_split(indices, max(1, len(indices) // AT_ONCE)):
        for index, (made, reason) in zip(chunk, pool.map(make, chunk), strict=True):
            if made is None:
                skipped[items.names[index]] = reason
                continue
            record, label, has_captions = made
            put(record)
            labels[label] += 1
            captioned += has_captions
    return {
        "size": labels.total(),
        "labels": list(labels.items()),
        "captioned": captioned,
        "skipped": skipped,
    }


def label_summary(classes, shards) -> tuple:
    """(class names, counts), or (None, None) where no example has a label."""
    counts = Counter()
    for shard in shards:
        counts.update(dict(shard["labels"]))
    labelled = [label for label in counts if label is not None]
    if not classes and not labelled:
        return None, None
    classes = classes or [str(label) for label in range(max(labelled) + 1)]
    return list(classes), [counts[label] for label in range(len(classes))]


def summary(items, shards, settings, max_bad_share) -> dict:
    """SPLIT.json from the shards' notes; ValueError where too many examples were left out."""
    skipped = {name: why for shard in shards for name, why in shard["skipped"].items()}
    unreadable = Unreadable(len(items.names), max_bad_share)
    for name, why in skipped.items():
        unreadable.add(name, why)
    classes, counts = label_summary(items.classes, shards)
    return settings | {
        "size": sum(shard["size"] for shard in shards),
        "classes": classes,
        "label_counts": counts,
        "captioned": sum(shard["captioned"] for shard in shards),
        "skipped": skipped,
        "shards": [{key: shard[key] for key in ("file", "size", "bytes")} for shard in shards],
    }


def pack(
    source: str,
    output: str,
    shape: tuple,
    *,
    split: str = "train",
    held_out: float = 0.05,
    data_dir: str | None = None,
    preprocess: str = "crop",
    format: str = "raw",
    shards: int = 0,
    max_bad_share: float = MAX_BAD_SHARE,
    workers: int = WORKERS,
) -> dict:
    """Pack `source` under `output` and return its index; finished shards are kept. ValueError as above."""
    shape = checked_shape(shape)
    resize.check(preprocess, shape)
    items = pack_inputs.open_input(source, split, held_out, data_dir)
    check_share(items.lost, len(items.names), f"captions in {source} have no image", max_bad_share)
    shards = shards or max(1, round(pack_inputs.raw_size(shape, items) / SHARD_BYTES))
    settings = {"split": split, "shape": list(shape), "preprocess": preprocess, "format": format}
    settings |= {"source": source, "listed": len(items.names), "digest": items.digest}
    output = local_folder(output)
    check_settings(output, split, settings | {"number": shards})

    make = partial(make_record, items=items, shape=shape, preprocess=preprocess, kind=format)
    paths = shard_paths(output, split, shards)
    with ThreadPoolExecutor(workers) as pool:
        for path, indices in zip(paths, np.array_split(np.arange(len(items.names)), shards), strict=True):
            if not path.exists():
                write_shard(path, partial(fill_shard, items=items, indices=indices, make=make, pool=pool))
                print(f"{path.name}: {len(indices)} images", flush=True)
    index = summary(items, read_notes(paths), settings, max_bad_share)
    write_json(output / f"{split}.json", index)
    return index


def shape_of(size: list[str], channels: str) -> tuple:
    """(h, w, c) of the flags; ValueError where --size is not one or two whole numbers."""
    if len(size) not in (1, 2) or not all(side.isdigit() for side in size):
        raise ValueError(f"--size={','.join(size)} must be a side in pixels, or HEIGHT,WIDTH")
    return int(size[0]), int(size[-1]), int(channels)


def act(options: dict) -> str:
    shape = shape_of(options.pop("size"), options.pop("channels"))
    output = options.pop("output")
    index = pack(options.pop("input"), output, shape, **options)
    skipped = len(index["skipped"])
    return f"{index['size']} images in {len(index['shards'])} shards, {skipped} skipped: {output}"


def main(argv: list[str]) -> None:
    command.run(argv, __doc__, define, act)


if __name__ == "__main__":
    main(sys.argv)
