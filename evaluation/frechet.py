"""The Frechet distance between two sets of features, from moments that stream and merge.

Heusel et al. 2017 (FID, https://arxiv.org/abs/1706.08500), equation 6, for features of any kind.
"""

import warnings
from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Count, mean [d] and scatter [d d] (summed outer products about the mean), in float64.

    `Moments.of(batch)` over batches, hosts or shards, merged in any order, is the one-pass result
    to rounding: functools.reduce(Moments.merge, map(Moments.of, batches)).
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """The moments of finite features [n d], n >= 1."""
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or not len(features) or not np.isfinite(features).all():
            raise ValueError(
                f"features must be finite [n d] with n >= 1, got shape {list(features.shape)} with "
                f"{np.count_nonzero(~np.isfinite(features))} non-finite values"
            )
        mean = features.mean(0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets together (Chan, Golub & LeVeque 1979)."""
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        spread = np.outer(shift, shift) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + spread)

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance [d d], as the published FID codes take it; needs two examples."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 examples, got {self.count}")
        return self.scatter / (self.count - 1)

    @property
    def rank_deficient(self) -> bool:
        """Whether the examples are too few for a covariance of full rank: n <= d."""
        return self.count <= len(self.mean)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric square root; eigenvalues below zero are rounding."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2), a squared distance, >= 0.

    The last trace is the sum of the singular values of S_a^1/2 S_b^1/2: real by construction, and
    exact to rounding, where square roots of the triple product's eigenvalues lose half of the
    digits on singular sets. Warns where either set has no more examples than features.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"a Frechet distance needs equal features, got {len(a.mean)} and {len(b.mean)} "
            "dimensions: compute both with the same features at the same resolution"
        )
    if a.rank_deficient or b.rank_deficient:
        warnings.warn(
            f"Frechet distance over {len(a.mean)} features from {a.count} and {b.count} examples: "
            "too few for the rank, compare only with equal counts",
            stacklevel=2,
        )
    cross = np.linalg.svd(_root(a.covariance) @ _root(b.covariance), compute_uv=False).sum()
    spread = np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return float(max(0.0, np.sum((a.mean - b.mean) ** 2) + spread))
