"""What the packing tools can read: a folder, a tensorflow-datasets set, webdataset tars, packed shards; by index."""

import glob
import json
import tarfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from input_pipeline import arrayrecord, captions, folder, tfds
from input_pipeline.source import digest_of


class Items(NamedTuple):
    """load(index) -> (image file's bytes or uint8 [h w c], label or None, captions); may raise."""

    names: Sequence[str]
    load: Callable
    classes: tuple[str, ...] | None
    digest: str  # of the examples in their order: that of the Source of the same set
    lost: Sequence[str] = ()  # captions without an image


def from_folder(path: str, split: str, held_out: float) -> Items:
    """A folder as input_pipeline/folder.py reads it; captions from captions.jsonl or IMAGE.txt."""
    found = folder.listing(split, path, held_out=held_out)
    lines, lost = captions.of_folder(found.root, found.names)

    def load(index):
        label = found.labels[index] if found.classes else None
        return (found.root / found.names[index]).read_bytes(), label, lines[index]

    return Items(found.names, load, found.classes, digest_of(found.names), lost)


def from_tfds(name: str, split: str, data_dir: str | None) -> Items:
    """A prepared set, images under 'image' and classes under 'label', captions under the usual keys."""
    builder = tfds.prepared(name, data_dir)
    split = tfds.split_name(split, builder.info.splits)
    found, classes = tfds.examples(builder, split, "image", "label")

    def load(index):
        example = found[int(index)]
        label = tfds.checked_label(example["label"], classes) if classes else None
        return example["image"], label, captions.captions_of(example)

    names = tfds.names(name, split, len(found))
    return Items(names, load, classes, digest_of(names))


def tar_members(path: str) -> dict[str, dict]:
    """{key: {suffix: (offset, size)}} of an uncompressed tar: webdataset's samples."""
    samples = defaultdict(dict)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in filter(tarfile.TarInfo.isfile, tar):
                place, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                samples[f"{place}/{stem}"][f".{suffix.lower()}"] = member.offset_data, member.size
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no uncompressed tar ({error}); unpack its compression") from error
    return samples


def from_tars(pattern: str) -> Items:
    """Webdataset tars: KEY.jpg (.png, .webp ...) with KEY.cls, KEY.txt or KEY.json beside it."""
    samples, lost = [], []
    for path in sorted(glob.glob(pattern)):
        for key, members in tar_members(path).items():
            if any(suffix in members for suffix in folder.SUFFIXES):
                samples.append((path, key, members))
            elif ".txt" in members:
                lost.append(_name(path, key, members))
    if not samples:
        raise ValueError(f"input={pattern!r} matches no tar with images; quote the pattern")

    def load(index):
        path, _, members = samples[index]
        with open(path, "rb") as file:

            def content(suffix):
                offset, size = members[suffix]
                file.seek(offset)
                return file.read(size)

            image = content(next(suffix for suffix in folder.SUFFIXES if suffix in members))
            fields = json.loads(content(".json")) if ".json" in members else {}
            label = int(content(".cls")) if ".cls" in members else fields.get("label")
            text = {"text": content(".txt")} if ".txt" in members else fields
        return image, label, captions.captions_of(text)

    names = [_name(*sample) for sample in samples]
    return Items(names, load, None, digest_of(names), lost)


def _name(path, key, members):
    return f"{Path(path).name}:{key.strip('/')}"


def from_shards(path: str, split: str) -> Items:
    """A packed set, as input_pipeline/arrayrecord.py reads it."""
    index, source = arrayrecord.read_index(path, split), arrayrecord.build(split, path=path, memory_limit=0)
    shards = arrayrecord.open_shards(path, index)

    def load(i):
        image, label, texts = arrayrecord.decode(shards.read([i])[0])
        if index["format"] == "raw":
            image = np.frombuffer(image, np.uint8).reshape(index["shape"])
        return image, label if source.classes else None, texts

    return Items([f"{split}:{i}" for i in range(source.size)], load, source.classes, source.digest)


def open_input(source: str, split: str, held_out: float, data_dir: str | None) -> Items:
    """The items of --input: tfds:NAME, a pattern of tars (all of them are the split), packed shards, or a folder."""
    if source.startswith("tfds:"):
        return from_tfds(source.removeprefix("tfds:"), split, data_dir)
    if source.endswith(".tar"):
        return from_tars(source)
    if (Path(source).expanduser() / f"{split}.json").is_file():
        return from_shards(source, split)
    return from_folder(source, split, held_out)


def raw_size(shape: tuple, items: Items) -> int:
    """Bytes of all images as raw pixels."""
    return int(np.prod(shape)) * len(items.names)
