"""Nearest neighbours among real images, and what they say of copying.

A Frechet distance is won by a model that stores its training set; this comparison is not. For a
new image the nearest of the training images and the nearest of the held-out ones lie in a ratio
that depends only on how many there are of each, so real held-out images show what to expect:
measured against the same training set and against the other held-out images. Copies are at 0.
"""

from collections.abc import Callable

import numpy as np

from evaluation.images import require_uint8


def nearest(
    images: np.ndarray, references: np.ndarray, leave_one_out: bool = False, chunk: int = 1024
) -> tuple[np.ndarray, np.ndarray]:
    """For each image its nearest reference: Euclidean distance [b] (pixels in [-1, 1]), index [b].

    uint8 b h w c on both sides. With `leave_one_out` both are the same set, and an image is not
    its own neighbour. Memory is chunk x chunk; ties go to the lower index.
    """
    if images.shape[1:] != references.shape[1:]:
        raise ValueError(
            f"neighbours need images of one shape, got {list(images.shape[1:])} and "
            f"{list(references.shape[1:])}: resize one of them"
        )
    queries = require_uint8(images, "images").reshape(len(images), -1)
    references = require_uint8(references, "references").reshape(len(references), -1)
    best = np.full(len(queries), np.inf)
    index = np.zeros(len(queries), np.int64)
    for i in range(0, len(queries), chunk):
        for j in range(0, len(references), chunk):
            squared = _squared(queries[i : i + chunk], references[j : j + chunk])
            if leave_one_out and i == j:
                np.fill_diagonal(squared, np.inf)
            found, here = squared.min(1), slice(i, i + chunk)
            index[here] = np.where(found < best[here], j + squared.argmin(1), index[here])
            best[here] = np.minimum(found, best[here])
    return np.sqrt(best) / 127.5, index


def nearest_of(images: np.ndarray, read: Callable, n: int, chunk_bytes: int = 2**25) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, among n references that do not all fit in memory: read(start, stop) -> uint8 [k h w c]."""
    best, index = np.full(len(images), np.inf), np.zeros(len(images), np.int64)
    chunk = max(1, chunk_bytes // images[0].size)
    for start in range(0, n, chunk):
        distance, found = nearest(images, read(start, min(start + chunk, n)))
        index = np.where(distance < best, start + found, index)
        best = np.minimum(distance, best)
    return best, index


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances [n m]: whole numbers below 2^53, so the expansion cancels nothing away."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T


def copying_ratio(images: np.ndarray, train: np.ndarray, heldout: np.ndarray, leave_one_out: bool = False) -> float:
    """Mean distance to the nearest training image over that to the nearest held-out one.

    0 for copies of training images; for new images what the held-out set itself shows, taken with
    `leave_one_out` and `heldout` as the images. Below 1 wherever training images are the more
    numerous, so read one beside the other. Noise takes both towards 1. Whole sets, not subsets of
    equal size: the original of a copy would be missing from most subsets. inf where every image is
    itself a held-out one.
    """
    to_train, _ = nearest(images, train)
    to_heldout, _ = nearest(images, heldout, leave_one_out)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(to_train.mean() / to_heldout.mean())
