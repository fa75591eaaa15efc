"""The kernel distance between two sets of features (KID), which has no bias at any count.

Binkowski et al. 2018 (https://arxiv.org/abs/1801.01401): the squared maximum mean discrepancy under
k(x, y) = (x.y / d + 1)^3, estimated without bias, so that it may fall below 0.
"""

import numpy as np


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """k of all pairs [n m], in float64; x [n d], y [m d]."""
    return (x.astype(np.float64) @ y.astype(np.float64).T / x.shape[1] + 1) ** 3


def kernel_distance(x: np.ndarray, y: np.ndarray, chunk: int = 1024) -> float:
    """The estimate over all pairs of x [n d] and y [m d]; memory is chunk x chunk, time (n + m)^2."""
    check(x, y, 2)
    return within(x, chunk) + within(y, chunk) - 2 * total(x, y, chunk) / (len(x) * len(y))


def within(x: np.ndarray, chunk: int) -> float:
    """The mean of k over pairs of two examples."""
    diagonal = ((np.square(x, dtype=np.float64).sum(1) / x.shape[1] + 1) ** 3).sum()
    return (total(x, x, chunk) - diagonal) / (len(x) * (len(x) - 1))


def total(x: np.ndarray, y: np.ndarray, chunk: int) -> float:
    starts = [(i, j) for i in range(0, len(x), chunk) for j in range(0, len(y), chunk)]
    return sum(kernel(x[i : i + chunk], y[j : j + chunk]).sum() for i, j in starts)


def kernel_distance_of_subsets(
    x: np.ndarray, y: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """(mean, standard deviation) over random subsets, as KID is usually published.

    Of each set `size` examples without repetition; the subsets are torch-fidelity's for its seed and
    for x as its first input.
    """
    check(x, y, max(2, size))
    random = np.random.RandomState(seed)
    found = [
        kernel_distance(x[random.choice(len(x), size, replace=False)], y[random.choice(len(y), size, replace=False)])
        for _ in range(subsets)
    ]
    return float(np.mean(found)), float(np.std(found))


def check(x: np.ndarray, y: np.ndarray, least: int) -> None:
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"a kernel distance needs equal features, got {x.shape[1]} and {y.shape[1]} dimensions")
    if min(len(x), len(y)) < least:
        raise ValueError(f"a kernel distance over {least} examples got {len(x)} and {len(y)}: draw more, or ask less")
