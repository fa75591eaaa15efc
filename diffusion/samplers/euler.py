"""Euler's method, with churn or with fresh noise."""

import jax.numpy as jnp

from diffusion.samplers.churn import Churn
from diffusion.samplers.ddim import ddim
from diffusion.sampling import Sampler
from diffusion.schedules import Schedule, clean_at_zero


# Karras et al. 2022 (EDM) algorithm 2 without its correction
def euler(
    schedule: Schedule, *, churn: float = 0.0, churn_min: float = 0.0, churn_max: float = jnp.inf, noise: float = 1.0
) -> Sampler:
    """First order. Without churn it is DDIM at eta = 0, and dx / dt = eps - x0 where the schedule is flow."""
    level, churned = clean_at_zero(schedule).level, Churn(churn, churn_min, churn_max, noise).checked()

    def step(keys, denoise, x, share, t, s):
        x, t = churned(schedule, keys, x, t, share)
        guess, clean = denoise(x, t), level(s)
        return clean.alpha * guess.x0 + clean.sigma * guess.eps, share

    return Sampler(lambda x, steps: churned.share(steps), step)


def euler_ancestral(schedule: Schedule, *, eta: float = 1.0) -> Sampler:
    """Euler's step down to a level below s, then noise up to s: with r = sigma / alpha, the same as DDIM.

    noise up = eta r_s sqrt(1 - r_s^2 / r_t^2), level below = sqrt(r_s^2 - up^2), are DDIM's std and weight of eps.
    """
    return ddim(schedule, eta=eta)
