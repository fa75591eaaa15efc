"""What a data set is to the rest of the code: a size, a shape, a function from indices to arrays.

Adding a data set is one file with `build(split, **options) -> Source` and one line in DATASETS.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from absl import logging

from input_pipeline import order

MEMORY_LIMIT = 2**30  # bytes of decoded pixels up to which a set is held in memory
MAX_BAD_SHARE = 0.01  # of the examples may be unreadable before the run stops
WORKERS = min(8, os.cpu_count() or 1)  # threads: Pillow lets go of the GIL while it decodes


Batch = dict[str, np.ndarray]


class Source(NamedTuple):
    """One split of a data set. `read` may be called from several threads at once.

    read(indices int64 [k]) -> dict(image uint8 [k h w c], label int32 [k], valid bool [k]): an
    unreadable example has valid False and pixels of zero, which no loss may see (law 23). Where the
    set was built with captions=True, a batch also has `captions`, object [k] of tuples of str.
    text(batch, indices [k], draws uint64 [k]) -> the batch with text for the device in their place;
    a draw chooses among an example's captions, 0 the first.
    """

    size: int
    shape: tuple[int, int, int]  # (h, w, c)
    classes: tuple[str, ...] | None  # names, in the order of the labels; None: no labels, label is 0
    label_counts: np.ndarray | None  # int64 [len(classes)], of all listed examples; None: not known
    read: Callable
    skipped: Callable = tuple  # () -> names of the unreadable examples met so far
    digest: str = ""  # of the examples' names or shards: changes when the set does
    in_memory: bool = False
    text: Callable | None = None  # input_pipeline/captions.py, embeddings.py
    made_of: str = ""  # the digest of its listing, or of what it was packed from where all of that is in it


class Unreadable:
    """The examples that could not be read: counted, named, at most a stated share of the set."""

    def __init__(self, size: int, max_bad_share: float):
        self.size, self.share = size, max_bad_share
        self.reasons = {}
        self.lock = threading.Lock()

    def add(self, name: str, error: Exception) -> None:
        """Note an example; ValueError with the first three when the share is exceeded."""
        with self.lock:
            if name not in self.reasons:
                self.reasons[name] = f"{name} ({error})".replace("\n", " ")
                logging.warning("unreadable, left out: %s", self.reasons[name])
            bad = len(self.reasons)
        if bad > self.share * self.size:
            first = "; ".join(list(self.reasons.values())[:3])
            raise ValueError(
                f"{bad} of {self.size} images are unreadable, over max_bad_share={self.share}: "
                f"{first}; repair or remove them, or raise --config.data.max_bad_share"
            )

    def names(self) -> list[str]:
        with self.lock:
            return list(self.reasons)


def empty_batch(k: int, shape: tuple) -> Batch:
    """A batch of k rows that hold nothing: zeros, all invalid."""
    return {
        "image": np.zeros((k, *shape), np.uint8),
        "label": np.zeros(k, np.int32),
        "valid": np.zeros(k, bool),
    }


def join(parts: Sequence[Batch]) -> Batch:
    """Batches one after the other, as one batch."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def read_each(load: Callable, name: Callable, shape: tuple, unreadable: Unreadable, captions=False) -> Callable:
    """`read` from load(index) -> (image uint8 [h w c], label), which may raise anything.

    With captions load gives them too, (image, label, captions), and an example without any is unreadable.
    """

    def read(indices):
        batch = empty_batch(len(indices), shape)
        if captions:
            batch["captions"] = column([()] * len(indices))
        for row, index in enumerate(indices):
            try:
                image, label, *texts = load(index)
                if captions:
                    batch["captions"][row] = checked_captions(texts[0])
                batch["image"][row], batch["label"][row], batch["valid"][row] = image, label, True
            except Exception as error:  # decoders raise all sorts on bytes that are not an image
                unreadable.add(name(index), error)
        return batch

    return read


def column(found: Sequence[tuple]) -> np.ndarray:
    """object [k] of tuples, of which NumPy would make a matrix where they are equally long."""
    rows = np.empty(len(found), object)
    for i, row in enumerate(found):
        rows[i] = row
    return rows


def checked_captions(captions: Sequence[str]) -> tuple[str, ...]:
    """The captions; ValueError where there is none."""
    if not captions:
        raise ValueError("it has no caption")
    return tuple(captions)


def gather(batch: Batch) -> Callable:
    """`read` from arrays that hold the whole set."""
    return lambda indices: {key: array[indices] for key, array in batch.items()}


def held(source: Source, memory_limit: int = MEMORY_LIMIT, workers: int = WORKERS) -> Source:
    """The same source decoded once into memory, where its pixels fit `memory_limit` bytes."""
    if source.in_memory or source.size * np.prod(source.shape) > memory_limit:
        return source
    pieces = np.array_split(np.arange(source.size), max(1, source.size // 256))
    with ThreadPoolExecutor(workers) as pool:
        batch = join(list(pool.map(source.read, pieces)))
    counts = source.label_counts
    if counts is None and source.classes is not None:
        counts = count_labels(batch["label"][batch["valid"]], source.classes)
    return source._replace(read=gather(batch), label_counts=counts, in_memory=True)


def count_labels(labels: np.ndarray, classes: Sequence) -> np.ndarray:
    """How often each class occurs, int64 [len(classes)]."""
    return np.bincount(labels, minlength=len(classes)).astype(np.int64)


def checked_shape(shape: Sequence[int]) -> tuple:
    """(h, w, c) as ints; ValueError unless the sides are positive and c is 1 or 3."""
    shape = tuple(shape)
    if len(shape) != 3 or min(shape) < 1 or shape[2] not in (1, 3):
        raise ValueError(f"shape={shape} must be (height, width, channels), channels 1 (grey) or 3 (RGB)")
    return tuple(int(side) for side in shape)


def facts(source: Source) -> dict:
    """What identifies the data, for a run's record; JSON-able."""
    counts = source.label_counts
    return {
        "size": source.size,
        "shape": list(source.shape),
        "classes": None if source.classes is None else list(source.classes),
        "label_counts": None if counts is None else counts.tolist(),
        "digest": source.digest,
    }


def digest_of(names: Sequence[str]) -> str:
    """A short hash of names in their order."""
    return hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest()


def some(source: Source, most: int) -> Source:
    """At most `most` examples, drawn evenly: sets on disk are often sorted by class."""
    if source.size <= most:
        return source
    chosen = np.sort(order.permutation(source.size, 0, 0)(np.arange(most)))
    text = source.text and (lambda batch, indices, draws: source.text(batch, chosen[indices], draws))
    return source._replace(size=most, read=lambda indices: source.read(chosen[indices]), text=text)


def watched(source: Source, check: Callable[[np.ndarray], None]) -> Source:
    """The source, whose readable images pass check(uint8 images), which raises ValueError, whenever they are read."""

    def read(indices):
        batch = source.read(indices)
        check(batch["image"][batch["valid"]])
        return batch

    return source._replace(read=read)
