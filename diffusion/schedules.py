"""Noise schedules: a time in [0, 1] to a noise level, and back through logsnr.

A discrete table of T steps is exact at t = k / T, where k = 0 is data and k = 1 .. T are the T
levels of DDPM. A continuous schedule is a logsnr clamped at both ends, never a cosine of t:
cos(pi / 2) is negative in float32.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.gaussian import NoiseLevel


class Schedule(NamedTuple):
    """level(t) -> NoiseLevel; time(logsnr) -> t, its inverse; steps = T of a table, None where continuous."""

    level: Callable[[Array], NoiseLevel]
    time: Callable[[Array], Array]
    steps: int | None = None


def clean_at_zero(schedule: Schedule) -> Schedule:
    """The schedule as sampling walks it: t = 0 is literally the level (1, 0), whatever sigma(0) is."""

    def level(t: Array) -> NoiseLevel:
        alpha, sigma = schedule.level(t)
        return NoiseLevel(jnp.where(t > 0, alpha, 1), jnp.where(t > 0, sigma, 0))

    return schedule._replace(level=level)


def from_betas(betas: np.ndarray) -> Schedule:
    """A discrete table from the T variances of q(x_k | x_{k-1}) (DDPM eq. 2), accumulated in float64.

    Both alpha and sigma are kept: sqrt(1 - alpha^2) in float32 is off at the first level. time()
    interpolates linearly between the levels, and answers 1 / T above the first. Raises ValueError
    unless every beta is inside (0, 1).
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or len(betas) < 2 or not np.all((betas > 0) & (betas < 1)):
        raise ValueError(
            f"betas: got shape {betas.shape} from {betas.min(initial=np.inf):.3g} to "
            f"{betas.max(initial=-np.inf):.3g}; give two or more, each inside (0, 1)"
        )
    steps = len(betas)
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - betas)])
    alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    noisiness = 2 * (np.log(sigma[1:]) - np.log(alpha[1:]))  # -logsnr: interp wants it to increase
    times = np.arange(1, steps + 1) / steps

    def level(t: Array) -> NoiseLevel:
        t = _floating(t)
        k = jnp.clip(jnp.round(t * steps), 0, steps).astype(jnp.int32)  # round: 0.29 * 100 < 29
        return NoiseLevel(jnp.asarray(alpha, t.dtype)[k], jnp.asarray(sigma, t.dtype)[k])

    def time(logsnr: Array) -> Array:
        logsnr = _floating(logsnr)
        known = (jnp.asarray(column, logsnr.dtype) for column in (noisiness, times))
        return jnp.interp(-logsnr, *known)

    return Schedule(level, time, steps)


# DDPM section 4; iDDPM scales the ends by 1000 / T
def linear(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """DDPM's linear betas as a discrete table; first and last are those of T = 1000."""
    scale = 1000 / _at_least_two(steps)
    return from_betas(np.linspace(scale * first, scale * last, steps))


# iDDPM eq. (17)
def cosine_discrete(steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """iDDPM's cosine table: alpha_bar(t) = cos^2((t + offset) / (1 + offset) pi / 2), betas capped."""
    t = np.arange(_at_least_two(steps) + 1) / steps
    alpha_bar = np.cos((t + offset) / (1 + offset) * np.pi / 2) ** 2
    return from_betas(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta))


# simple diffusion, section 3.1 and its appendix
def cosine(logsnr_min: float = -15.0, logsnr_max: float = 15.0) -> Schedule:
    """logsnr(t) = -2 log tan(angle), the angle linear in t from logsnr_max at 0 to logsnr_min at 1.

    Raises ValueError unless logsnr_min < logsnr_max within +-80, the reach of alpha^2 in float32.
    """
    if not -80 < logsnr_min < logsnr_max < 80:
        raise ValueError(f"logsnr_min: got {logsnr_min} with logsnr_max {logsnr_max}; give min < max within +-80")
    start, end = math.atan(math.exp(-logsnr_max / 2)), math.atan(math.exp(-logsnr_min / 2))
    # pi / 2 - angle is carried beside the angle: near pi / 2 float32 has no digits left for it.
    co_start, co_end = math.atan(math.exp(logsnr_max / 2)), math.atan(math.exp(logsnr_min / 2))

    def logsnr(t: Array) -> Array:
        angle, complement = (1 - t) * start + t * end, (1 - t) * co_start + t * co_end
        return 2 * (jnp.log(jnp.sin(complement)) - jnp.log(jnp.sin(angle)))

    def time(logsnr: Array) -> Array:
        angle = jnp.arctan(jnp.exp(-_floating(logsnr) / 2))
        return jnp.clip((angle - start) / (end - start), 0, 1)

    return Schedule(lambda t: variance_preserving(logsnr(_floating(t))), time)


def variance_preserving(logsnr: Array) -> NoiseLevel:
    """The level with alpha^2 + sigma^2 = 1 at this logsnr: alpha^2 = sigmoid(l), sigma^2 = sigmoid(-l)."""
    return NoiseLevel(jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr)))


def _floating(t: Array) -> Array:
    return jnp.asarray(t, jnp.result_type(float, t))


def _at_least_two(steps: int) -> int:
    if steps != int(steps) or steps < 2:
        raise ValueError(f"steps: got {steps}; a discrete schedule has a whole number of levels, 2 or more")
    return steps


SCHEDULES = {"linear": linear, "cosine_discrete": cosine_discrete, "cosine": cosine}
