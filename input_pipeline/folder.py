"""Any folder of images, searched recursively, with subfolders for classes or without.

    PATH/train/cat/1.jpg  PATH/test/cat/2.jpg     its own split ('val', 'valid' do for 'test')
    PATH/cat/1.jpg                                a share of the names is held out, by their hash

Small sets are decoded once into memory, larger ones a batch at a time (tools/pack.py makes record
files of sets that are too large for that).
"""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from input_pipeline import captions as texts
from input_pipeline import resize
from input_pipeline.source import (
    MAX_BAD_SHARE,
    MEMORY_LIMIT,
    WORKERS,
    Source,
    Unreadable,
    checked_shape,
    count_labels,
    digest_of,
    held,
    read_each,
)

SUFFIXES = ".jpg .jpeg .png .webp .bmp .gif .tif .tiff .ppm .pgm".split()
HELD_OUT_FOLDERS = ("test", "val", "valid", "validation")
SPLITS = ("train", "test")


class Listing(NamedTuple):
    """The images of a split: paths below `root`, sorted, and their labels (0 without classes)."""

    root: Path
    names: list[str]
    labels: np.ndarray
    classes: tuple[str, ...] | None


def image_names(root: Path) -> list[str]:
    """Paths relative to `root` of all images below it, '/' between parts, sorted."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(folder).relative_to(root)
        images = (name for name in files if Path(name).suffix.lower() in SUFFIXES)
        found += [(below / name).as_posix() for name in images if not name.startswith(".")]
    return sorted(found)


def class_names(names: list[str]) -> tuple[str, ...] | None:
    """The paths' first folders, sorted; None where images lie outside, or there is but one."""
    if not all("/" in name for name in names):
        return None
    classes = tuple(sorted({name.split("/")[0] for name in names}))
    return classes if len(classes) > 1 else None


def _held_out(names, share, seed):
    """The share of the names with the smallest hashes: at least one, unless the share is 0."""
    if not share:
        return set()
    digest = {name: hashlib.blake2b(f"{seed}/{name}".encode()).digest() for name in names}
    return set(sorted(names, key=digest.get)[: max(1, round(share * len(names)))])


def _split_folders(root):
    """{'train': folder, 'test': folder} as far as the folder has its own split; {} where one may be a class."""
    subfolders = {entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    if subfolders - {"train", *HELD_OUT_FOLDERS}:
        return {}
    test = next((root / name for name in HELD_OUT_FOLDERS if (root / name).is_dir()), None)
    folders = {"train": root / "train", "test": test}
    return {name: path for name, path in folders.items() if path and path.is_dir()}


def _split_names(split, root, held_out, seed):
    """(folder, its images of this split, all images that could carry a class)."""
    folders = _split_folders(root)
    if len(folders) == 2:
        names = {name: image_names(folder) for name, folder in folders.items()}
        return folders[split], names[split], names["train"] + names["test"]
    root = folders.get("train", root)
    names = image_names(root)
    out = _held_out(names, held_out, seed)
    return root, [name for name in names if (name in out) == (split == "test")], names


def listing(split, path, *, labels=None, held_out=0.05, seed=0) -> Listing:
    """The images of a split; ValueError where the folder is missing or holds none of them.

    labels: True demands class subfolders, False ignores them, None takes them where every image
    lies in one and there are at least two. Labels count through the sorted names of all splits.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} of a folder is not known; choose from {list(SPLITS)}")
    if not path:
        raise ValueError("path is not given; it is the folder of images to read")
    root = Path(path).expanduser()
    if "://" in str(path) or not root.is_dir():
        raise ValueError(f"path={path!r} is not a local folder; give (or mount) a folder of images")
    root, names, everything = _split_names(split, root, held_out, seed)
    if not names:
        suffixes = " ".join(SUFFIXES)
        raise ValueError(f"{root} holds no image of split {split!r}; looked for {suffixes} below it")
    classes = None if labels is False else class_names(everything)
    if labels and classes is None:
        raise ValueError(f"{root} does not hold all its images in two or more class subfolders")
    number = {name: label for label, name in enumerate(classes or ())}
    found = np.array([number.get(name.split("/")[0], 0) for name in names], np.int32)
    return Listing(root, names, found, classes)


def build(
    split: str,
    *,
    path: str,
    shape: tuple,
    labels: bool | None = None,
    held_out: float = 0.05,
    seed: int = 0,
    preprocess: str = "crop",
    captions: bool = False,
    max_bad_share: float = MAX_BAD_SHARE,
    memory_limit: int = MEMORY_LIMIT,
    workers: int = WORKERS,
) -> Source:
    """The `split` ('train' or 'test') of the folder at `path`, as images of `shape`.

    held_out: the share of a folder without its own split that is 'test', drawn by `seed`.
    captions: read those of captions.jsonl, or of IMAGE.txt beside an image.
    memory_limit: bytes of pixels up to which the split is decoded now, by `workers` threads.
    ValueError where the folder, a name or the shape is wrong, or too many images are unreadable.
    """
    shape = checked_shape(shape)
    resize.check(preprocess, shape)
    found = listing(split, path, labels=labels, held_out=held_out, seed=seed)
    unreadable = Unreadable(len(found.names), max_bad_share)

    lines = texts.checked(found.root, found.names, max_bad_share) if captions else None

    def load(index):
        pixels = resize.decode(found.root / found.names[index], shape, preprocess)
        return pixels, found.labels[index], lines and lines[index]

    source = Source(
        size=len(found.names),
        shape=shape,
        classes=found.classes,
        label_counts=found.classes and count_labels(found.labels, found.classes),
        read=read_each(load, found.names.__getitem__, shape, unreadable, captions),
        skipped=unreadable.names,
        digest=digest_of(found.names if lines is None else [*found.names, *map(str, lines)]),
        made_of=digest_of(found.names),
    )
    return held(source, memory_limit, workers)
