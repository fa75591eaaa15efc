"""Schedules made of a schedule: shifts of logsnr, which higher resolutions need."""

import math

import jax.numpy as jnp
from jax import Array

from diffusion.gaussian import NoiseLevel
from diffusion.schedules.base import Schedule, checked, floating, inverse, preserves_variance, variance_preserving


# Hoogeboom et al. 2023 (simple diffusion) section 3.1
def shifted(base: Schedule, resolution: int = 64, reference: int = 64) -> Schedule:
    """logsnr + 2 log(reference / resolution): a schedule made for images of `reference` pixels, noisier for larger.

    Raises ValueError unless base preserves variance.
    """
    shift = _shift(base, "shifted", resolution, reference)
    return Schedule(
        lambda t: variance_preserving(base.level(t).logsnr + shift),
        lambda logsnr: base.time(floating(logsnr) - shift),
        base.steps,
    )


# Hoogeboom et al. 2023, section 3.1, for text to image
def interpolated(base: Schedule, resolution: int = 256, low: int = 32, high: int = 256) -> Schedule:
    """From the shift for reference `low` at t = 0 to that for `high` at t = 1, linear in t.

    Raises ValueError unless base preserves variance and the result still falls.
    """
    first, last = (_shift(base, "interpolated", resolution, reference) for reference in (low, high))

    def logsnr_at(t: Array) -> Array:
        return base.level(t).logsnr + (1 - t) * first + t * last

    def level(t: Array) -> NoiseLevel:
        return variance_preserving(logsnr_at(floating(t)))

    def time(logsnr: Array) -> Array:
        logsnr = floating(logsnr)
        if base.steps is None:
            return inverse(logsnr_at, logsnr)
        times = jnp.arange(1, base.steps + 1, dtype=logsnr.dtype) / base.steps
        return jnp.interp(-logsnr, jnp.minimum(-logsnr_at(times), 80), times)  # alpha_T may be 0

    return checked(Schedule(level, time, base.steps))


def _shift(base: Schedule, name: str, resolution: int, reference: int) -> float:
    if min(resolution, reference) <= 0:
        raise ValueError(f"resolution: got {resolution} with reference {reference}; give positive sizes")
    if not preserves_variance(base):
        raise ValueError(f"{name}: its base must have alpha^2 + sigma^2 = 1, as cosine; flow takes its own shift")
    return 2 * math.log(reference / resolution)
