"""Sampling with a consistency model: to data at once, and back to a lower level for another try."""

import jax.numpy as jnp

from diffusion import distillation
from diffusion.sampling import Sampler, check_range, noised
from diffusion.schedules import Schedule, clean_at_zero


# Song et al. 2023 (consistency models) algorithm 1
def consistency(schedule: Schedule, *, sigma_min: float = distillation.SIGMA_MIN) -> Sampler:
    """x0 by the consistency function, then noise of level s on it; one step is one call.

    sigma_min is that of the training. Raises ValueError where it is known and negative.
    """
    check_range("sigma_min", sigma_min, 0)
    level = clean_at_zero(schedule).level

    def step(keys, denoise, x, memory, t, s):
        x0, clean = distillation.consistency(denoise, schedule, sigma_min)(x, t), level(s)
        variance = clean.sigma**2 - (clean.alpha * sigma_min) ** 2  # what x0 still has at sigma_min is taken off
        return noised(keys, clean.alpha * x0, jnp.sqrt(jnp.maximum(variance, 0)), s), memory

    return Sampler(lambda x, steps: (), step)
