"""Which samplers there are, with what settings, and the order to which each converges on a Gaussian."""

import numpy as np

from benchmarks.recursions import RECURSIONS

MEAN, VARIANCE, FRAC = 0.3, 0.25, 0.4

# name: (sampler, its settings, the recursion's where they have other names, its order or None where it is biased)
CASES = {
    "ancestral, small": ("ancestral", {"variance": "small"}, {"frac": 0.0}, 1),
    "ancestral, large": ("ancestral", {"variance": "large"}, {"frac": 1.0}, 1),
    "ancestral, learned": ("ancestral", {"variance": "learned"}, {"frac": FRAC}, 1),
    "ancestral, interpolated": ("ancestral", {"variance": "interpolated", "exponent": 0.3}, {"frac": 0.3}, 1),
    "ddim": ("ddim", {"eta": 0.0}, None, 1),
    "ddim, eta .5": ("ddim", {"eta": 0.5}, None, 1),
    "ddim, eta 1": ("ddim", {"eta": 1.0}, None, 1),
    "addim": ("addim", {}, None, None),
    "euler": ("euler", {}, None, 1),
    "euler_ancestral": ("euler_ancestral", {}, None, 1),
    "heun": ("heun", {}, None, 2),
    "dpmpp_2m": ("dpmpp_2m", {"eta": 0.0}, None, 2),
    "dpmpp_2m, eta 1": ("dpmpp_2m", {"eta": 1.0}, None, 2),
    "dpmpp_3m_sde, eta 0": ("dpmpp_3m_sde", {"eta": 0.0}, None, 3),
    "dpmpp_3m_sde": ("dpmpp_3m_sde", {"eta": 1.0}, None, 2),
    "unipc, order 1": ("unipc", {"order": 1}, None, 2),
    "unipc": ("unipc", {"order": 2}, None, 3),
    "unipc, order 3": ("unipc", {"order": 3}, None, 4),
    "predictor_corrector": ("predictor_corrector", {}, None, None),
}


def x0_of(x, alpha, sigma):
    """E[x0 | x] of N(MEAN, VARIANCE), by Bayes' formula."""
    return MEAN + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * MEAN)


def order(case: str, steps: list[int]) -> float:
    """The slope of the error of the variance over the steps, between fixed levels of logsnr -8 and 4.

    By the recursion on the coefficients of (1, x at the start, z_0, z_1, ..), so that the variance is exact.
    """
    name, settings, other, _ = CASES[case]
    errors = []
    for n in steps:
        half = np.linspace(-8, 4, n + 1) / 2
        alpha, sigma = (np.append(1 / np.sqrt(1 + np.exp(sign * half)), end) for sign, end in ((-2, 1), (2, 0)))
        unit = np.eye(n + 3)

        def affine(x, a, s, unit=unit):
            return x0_of(x, a, s) - (1 - unit[0]) * x0_of(0, a, s)

        *_, end, _ = RECURSIONS[name](alpha, sigma, unit[1], unit[2:], affine, **(other or settings))
        made = end[1] ** 2 * (alpha[0] ** 2 * VARIANCE + sigma[0] ** 2) + np.sum(end[2:] ** 2)
        errors.append(abs(made - alpha[-2] ** 2 * VARIANCE - sigma[-2] ** 2))
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]
