"""The Inception score, from sums over the images that stream and merge.

Salimans et al. 2016 (https://arxiv.org/abs/1606.03498): exp E KL(p(y|x) || p(y)), the mean over splits.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax, xlogy


class ClassSums(NamedTuple):
    """Of each split: how many images, their summed probabilities, and the summed p log p. float64."""

    count: np.ndarray  # [s]
    probability: np.ndarray  # [s k]
    p_log_p: np.ndarray  # [s]

    @classmethod
    def of(cls, logits: np.ndarray, split: np.ndarray, splits: int) -> "ClassSums":
        """The sums of images with `logits` [n k] in the splits [n], numbers below `splits`."""
        log_p = log_softmax(np.asarray(logits, np.float64), axis=1)
        p = np.exp(log_p)
        member = (np.arange(splits)[:, None] == split).astype(np.float64)  # [s n]
        return cls(member.sum(1), member @ p, member @ (p * log_p).sum(1))

    def merge(self, other: "ClassSums") -> "ClassSums":
        return ClassSums(*(a + b for a, b in zip(self, other)))


def split_of(n: int, splits: int, seed: int) -> np.ndarray:
    """The split of each of n images [n]: equal parts of a shuffle, those of torch-fidelity for its seed.

    Shuffled, since samples in the order of their labels would each fall into a split of few classes.
    """
    if n < splits:
        raise ValueError(f"an Inception score in {splits} splits needs as many images, got {n}: draw more")
    # RandomState, here and in kernel_distance: NumPy has frozen its stream, and torch-fidelity draws from it.
    shuffled = np.random.RandomState(seed).permutation(n)
    edges = np.arange(1, splits) * n // splits
    split = np.empty(n, np.int64)
    split[shuffled] = np.searchsorted(edges, np.arange(n), side="right")
    return split


def inception_score(sums: ClassSums) -> tuple[float, float]:
    """(mean, standard deviation) over the splits; from 1 up to the number of classes."""
    mean_p = sums.probability / sums.count[:, None]
    scores = np.exp(sums.p_log_p / sums.count - xlogy(mean_p, mean_p).sum(1))
    return float(scores.mean()), float(scores.std())
