"""What tools/pack.py can read: a folder, a tensorflow-datasets set, webdataset tars; all by index."""

import glob
import json
import tarfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from input_pipeline import folder, tfds

CAPTION_KEYS = ("captions", "caption", "text")


class Items(NamedTuple):
    """load(index) -> (image file's bytes or uint8 [h w c], label or None, captions); may raise."""

    names: Sequence[str]
    load: Callable
    classes: tuple[str, ...] | None


def captions_of(fields: dict) -> list[str]:
    """The captions in a JSON object or a tfds example: one string or several, under the usual keys."""
    found = next((fields[key] for key in CAPTION_KEYS if key in fields), [])
    found = [found] if isinstance(found, str | bytes) else list(found)
    return [one.decode() if isinstance(one, bytes) else str(one) for one in found]


def caption_lines(root: Path) -> dict[str, list[str]]:
    """{file: captions} from ROOT/captions.jsonl, whose lines hold "file" and "captions" or "caption"."""
    file = root / "captions.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return {line["file"]: captions_of(line) for line in map(json.loads, lines)}


def from_folder(path: str, split: str, held_out: float) -> Items:
    """A folder as input_pipeline/folder.py reads it; captions from captions.jsonl or IMAGE.txt."""
    found = folder.listing(split, path, held_out=held_out)
    lines = caption_lines(found.root)

    def load(index):
        name = found.names[index]
        beside = (found.root / name).with_suffix(".txt")
        captions = lines.get(name) or ([beside.read_text().strip()] if beside.is_file() else [])
        label = found.labels[index] if found.classes else None
        return (found.root / name).read_bytes(), label, captions

    return Items(found.names, load, found.classes)


def from_tfds(name: str, split: str, data_dir: str | None) -> Items:
    """A prepared set, images under 'image' and classes under 'label', captions under the usual keys."""
    builder = tfds.prepared(name, data_dir)
    split = tfds.split_name(split, builder.info.splits)
    found, classes = tfds.examples(builder, split, "image", "label")

    def load(index):
        example = found[int(index)]
        label = tfds.checked_label(example["label"], classes) if classes else None
        return example["image"], label, captions_of(example)

    names = [f"{name}/{split}:{index}" for index in range(len(found))]
    return Items(names, load, classes)


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
    samples = [
        (path, key, members)
        for path in sorted(glob.glob(pattern))
        for key, members in tar_members(path).items()
        if any(suffix in members for suffix in folder.SUFFIXES)
    ]
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
            captions = [content(".txt").decode().strip()] if ".txt" in members else captions_of(fields)
        return image, label, captions

    return Items([f"{Path(path).name}:{key.strip('/')}" for path, key, _ in samples], load, None)


def open_input(source: str, split: str, held_out: float, data_dir: str | None) -> Items:
    """The items of --input: tfds:NAME, a pattern of tars (all of them are the split), or a folder."""
    if source.startswith("tfds:"):
        return from_tfds(source.removeprefix("tfds:"), split, data_dir)
    if source.endswith(".tar"):
        return from_tars(source)
    return from_folder(source, split, held_out)


def raw_size(shape: tuple, items: Items) -> int:
    """Bytes of all images as raw pixels."""
    return int(np.prod(shape)) * len(items.names)
