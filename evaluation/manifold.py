"""Precision and recall of samples: how much of each set lies where the other one does.

Kynkaanniemi et al. 2019 (https://arxiv.org/abs/1904.06991). A set's manifold is the union of balls about
its features, each reaching its k-th nearest neighbour. Distances are Euclidean, in float64: memory is
chunk x chunk, time the product of the counts.
"""

from typing import NamedTuple

import numpy as np

NEIGHBOURS = 3


class Manifold(NamedTuple):
    """Features [n d] with, for each, the squared distances to its nearest others, ascending [n k]."""

    features: np.ndarray
    squared: np.ndarray

    @property
    def spacing(self) -> float:
        """The mean distance of a feature to the nearest other one."""
        return float(np.sqrt(self.squared[:, 0]).mean())


class Membership(NamedTuple):
    """How points lie to a manifold: the share inside it, in [0, 1], and the mean distance to the nearest feature."""

    share: float
    distance: float


def manifold(features: np.ndarray, k: int = NEIGHBOURS, chunk: int = 1024) -> Manifold:
    """The manifold of features [n d]; ValueError unless n > k."""
    if len(features) <= k:
        raise ValueError(f"balls out to the {k}th neighbour need more than {k} examples, got {len(features)}")
    squared = np.concatenate([nearest_others(features, i, k, chunk) for i in range(0, len(features), chunk)])
    return Manifold(features, squared)


def nearest_others(features: np.ndarray, start: int, k: int, chunk: int) -> np.ndarray:
    """Squared distances to the k nearest other features [m k] of the chunk that begins at `start`."""
    here = features[start : start + chunk]
    nearest = np.full((len(here), k), np.inf)
    for j in range(0, len(features), chunk):
        squared = distances(here, features[j : j + chunk])
        if j == start:
            np.fill_diagonal(squared, np.inf)
        candidates = np.concatenate([nearest, squared], axis=1)
        nearest = np.sort(np.partition(candidates, k - 1)[:, :k])
    return nearest


def membership(points: np.ndarray, of: Manifold, chunk: int = 1024) -> Membership:
    """How points [m d] lie to a manifold. Of samples to real images: precision; the other way round: recall."""
    if points.shape[1] != of.features.shape[1]:
        raise ValueError(f"a manifold of {of.features.shape[1]} dimensions got points of {points.shape[1]}")
    inside, nearest = np.zeros(len(points), bool), np.full(len(points), np.inf)
    for i in range(0, len(points), chunk):
        here = slice(i, i + chunk)
        for j in range(0, len(of.features), chunk):
            squared = distances(points[here], of.features[j : j + chunk])
            inside[here] |= (squared <= of.squared[j : j + chunk, -1]).any(1)
            nearest[here] = np.minimum(nearest[here], squared.min(1))
    return Membership(float(inside.mean()), float(np.sqrt(nearest).mean()))


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances [n m] of a [n d] and b [m d]; rounding below zero is cut off."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return ((a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * a @ b.T).clip(0)
