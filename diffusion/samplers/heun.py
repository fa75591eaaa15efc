"""Heun's method (Karras et al. 2022, EDM, algorithms 1 and 2)."""

import jax
import jax.numpy as jnp

from diffusion.samplers.churn import Churn
from diffusion.sampling import Sampler
from diffusion.schedules import Schedule, clean_at_zero


def heun(
    schedule: Schedule, *, churn: float = 0.0, churn_min: float = 0.0, churn_max: float = jnp.inf, noise: float = 1.0
) -> Sampler:
    """Second order: in y = x / alpha and r = sigma / alpha, where dy / dr = eps, the mean of the slopes at both ends.

    Two network calls a step and one in the last, 2 N - 1. From pure noise (alpha = 0), where r is infinite, the
    first step stays Euler's, which saves one more.
    """
    level, churned = clean_at_zero(schedule).level, Churn(churn, churn_min, churn_max, noise).checked()

    def step(keys, denoise, x, share, t, s):
        x, t = churned(schedule, keys, x, t, share)
        noisy, clean, guess = level(t), level(s), denoise(x, t)
        euler = clean.alpha * guess.x0 + clean.sigma * guess.eps

        def corrected():
            change = denoise(euler, s).eps - guess.eps
            return euler + clean.alpha * (clean.ratio - noisy.ratio) * change / 2

        return jax.lax.cond((s > 0) & (noisy.alpha > 0), corrected, lambda: euler), share

    def calls(times) -> int:
        steps, from_pure_noise = len(times) - 1, bool(level(jnp.asarray(times[0])).alpha == 0)
        return 2 * steps - 1 - (from_pure_noise and steps > 1)

    return Sampler(lambda x, steps: churned.share(steps), step, calls)
