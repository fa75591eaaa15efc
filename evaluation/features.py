"""Features of many images: extracted on a mesh, and what is kept of them, which streams and merges.

    extract = extractor(network, params, mesh)                     # uint8 b h w c -> pool, logits, spatial
    statistics = gather(lambda start, stop: images[start:stop], len(images), extract)

A mesh is one process's own devices; several processes each gather their part, and the parts merge.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from evaluation.frechet import Moments
from evaluation.images import require_uint8
from evaluation.inception_score import ClassSums, split_of
from training.sharding import put_batch, replicated, round_up

CHUNK = 1000  # images between two merges
KEEP = 10_000  # images whose features are kept, for what needs pairs: 80 MB
SPLITS = 10
SEED = 2020

Extract = Callable[[np.ndarray], Any]  # uint8 b h w c -> a tuple with pool [b d], and Inception's logits and spatial


class Statistics(NamedTuple):
    """What is kept of a set of images; its size stops growing at `KEEP` of them.

    Networks other than Inception have pool features alone: spatial and classes are then None.
    """

    pool: Moments
    spatial: Moments | None
    classes: ClassSums | None
    kept: np.ndarray  # [m d] pool features of the set's first images, in order, float32
    index: np.ndarray  # [m] which images those are

    def merge(self, other: "Statistics") -> "Statistics":
        """The statistics of both sets together, whichever comes first."""
        index = np.concatenate([self.index, other.index])
        order = np.argsort(index)
        return Statistics(
            self.pool.merge(other.pool),
            self.spatial and self.spatial.merge(other.spatial),
            self.classes and self.classes.merge(other.classes),
            np.concatenate([self.kept, other.kept])[order],
            index[order],
        )


def extractor(apply: Callable, params, mesh: jax.sharding.Mesh, batch_size: int = 64) -> Extract:
    """apply(params, uint8 b h w 3) -> a tuple of features [b ...], as a function of any number of images.

    One compiled program a resolution; each batch is split over the mesh's devices, the last one
    padded.
    """
    size = round_up(batch_size, mesh.size)
    params = jax.device_put(params, replicated(mesh))
    apply = jax.jit(apply)

    def extract(images: np.ndarray):
        images, batches = coloured(images), []
        for start in range(0, len(images), size):
            rows = np.arange(start, start + size).clip(max=len(images) - 1)
            batches.append(apply(params, put_batch({"image": images[rows]}, mesh)["image"]))
        return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(images)], *batches)

    return extract


def coloured(images: np.ndarray) -> np.ndarray:
    """uint8 b h w 3, from that or from grey b h w 1 repeated; ValueError for other arrays."""
    if require_uint8(images, "images").shape[3] not in (1, 3) or not len(images):
        raise ValueError(f"images must be uint8 [b h w 3] or [b h w 1], b >= 1, got {list(images.shape)}")
    return np.broadcast_to(images, (*images.shape[:3], 3))


def gather(
    images: Callable[[int, int], np.ndarray],
    n: int,
    extract: Extract,
    *,
    keep: int = KEEP,
    chunk: int = CHUNK,
    part: tuple[int, int] = (0, 1),
    progress: "Progress | None" = None,
) -> Statistics:
    """Statistics of n images, images(start, stop) being uint8 [stop-start h w c].

    part = (p, of): of the chunks only those numbered p, p + of, p + 2 of, ...: a process's share, to
    be merged with the others'. The result depends on the images alone, up to rounding; taken up again
    from `progress`, to the last digit.
    """
    first, parts = part
    split = split_of(n, SPLITS, SEED)
    starts = range(first * chunk, n, parts * chunk)
    if not starts:
        raise ValueError(f"part {first} of {parts} has none of {n} images in chunks of {chunk}: use fewer parts")
    done, total = progress.read() if progress else (0, None)
    for start in starts[done:]:
        found = of_chunk(images, start, min(start + chunk, n), extract, split, keep)
        total, done = total.merge(found) if total else found, done + 1
        if progress:
            progress.write(done, total)
    return total


class Progress(NamedTuple):
    """read() -> (chunks done, their statistics), (0, None) at first; write(done, statistics) keeps them."""

    read: Callable[[], tuple[int, Statistics | None]]
    write: Callable[[int, Statistics], None]


def of_chunk(images, start: int, stop: int, extract: Extract, split: np.ndarray, keep: int) -> Statistics:
    pixels = images(start, stop)
    if len(pixels) != stop - start:
        raise ValueError(f"images {start} to {stop} were asked for, {len(pixels)} came: count what can be read first")
    features = extract(pixels)
    index = np.arange(start, max(start, min(stop, keep)))
    inception = hasattr(features, "spatial")
    return Statistics(
        Moments.of(features.pool),
        Moments.of(features.spatial) if inception else None,
        ClassSums.of(features.logits, split[start:stop], SPLITS) if inception else None,
        features.pool[: len(index)],
        index,
    )
