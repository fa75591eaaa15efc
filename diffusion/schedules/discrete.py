"""Tables of T levels, exact at t = k / T: k = 0 is data and k = 1 .. T are DDPM's levels."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.gaussian import NoiseLevel
from diffusion.schedules.base import Schedule, floating


def from_betas(betas: np.ndarray, zero_terminal: bool = False) -> Schedule:
    """A table from the T variances of q(x_k | x_{k-1}) (DDPM eq. 2), accumulated in float64.

    zero_terminal shifts and scales alpha so that alpha_T = 0 and alpha_1 stays (Lin et al. 2023, algorithm 1).
    Both alpha and sigma are kept: sqrt(1 - alpha^2) in float32 is off at the first level. time() interpolates
    linearly between the levels, and answers 1 / T above the first. Raises ValueError unless every beta is inside
    (0, 1).
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or len(betas) < 2 or not np.all((betas > 0) & (betas < 1)):
        raise ValueError(
            f"betas: got shape {betas.shape} from {betas.min(initial=np.inf):.3g} to "
            f"{betas.max(initial=-np.inf):.3g}; give two or more, each inside (0, 1)"
        )
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - betas)])
    alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    if zero_terminal:
        alpha[1:] = (alpha[1:] - alpha[-1]) * alpha[1] / (alpha[1] - alpha[-1])
        sigma = np.sqrt(1 - alpha**2)
    return table(alpha, sigma)


def table(alpha: np.ndarray, sigma: np.ndarray) -> Schedule:
    """The schedule of T + 1 levels, data's (1, 0) first; float64."""
    steps = len(alpha) - 1
    with np.errstate(divide="ignore"):
        noisiness = 2 * (np.log(sigma[1:]) - np.log(alpha[1:]))  # -logsnr: interp wants it to increase
    noisiness = np.minimum(noisiness, 80)  # alpha_T may be 0
    times = np.arange(1, steps + 1) / steps

    def level(t: Array) -> NoiseLevel:
        t = floating(t)
        k = jnp.clip(jnp.round(t * steps), 0, steps).astype(jnp.int32)  # round: 0.29 * 100 < 29
        return NoiseLevel(jnp.asarray(alpha, t.dtype)[k], jnp.asarray(sigma, t.dtype)[k])

    def time(logsnr: Array) -> Array:
        logsnr = floating(logsnr)
        known = (jnp.asarray(column, logsnr.dtype) for column in (noisiness, times))
        return jnp.interp(-logsnr, *known)

    return Schedule(level, time, steps)


# DDPM section 4; iDDPM scales the ends by 1000 / T
def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02, zero_terminal: bool = False) -> Schedule:
    """DDPM's linear betas; first and last are those of T = 1000."""
    scale = 1000 / _at_least_two(steps)
    return from_betas(np.linspace(scale * first, scale * last, steps), zero_terminal)


# iDDPM eq. (17)
def cosine_discrete(
    steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999, zero_terminal: bool = False
) -> Schedule:
    """iDDPM's cosine: alpha_bar(t) = cos^2((t + offset) / (1 + offset) pi / 2), betas capped."""
    t = np.arange(_at_least_two(steps) + 1) / steps
    alpha_bar = np.cos((t + offset) / (1 + offset) * np.pi / 2) ** 2
    return from_betas(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta), zero_terminal)


def _at_least_two(steps: int) -> int:
    if steps != int(steps) or steps < 2:
        raise ValueError(f"steps: got {steps}; a discrete schedule has a whole number of levels, 2 or more")
    return steps
