"""Adjusted DDIM (Heek et al. 2024, Multistep Consistency Models, algorithm 3)."""

import jax
import jax.numpy as jnp

from diffusion.sampling import Sampler, check_range
from diffusion.schedules import Schedule, clean_at_zero


def addim(schedule: Schedule, *, eta: float = 0.1, variance: float = 0.5) -> Sampler:
    """DDIM's deterministic step with eps longer by the variance that averaging over x0 takes away.

    That variance is guessed as the share eta of the posterior's for independent pixels of this variance, as in the
    paper. The norm of eps is each example's own. The last step, to data, is the x0 prediction.
    """
    check_range("eta", eta, 0, 1)
    if not isinstance(variance, jax.core.Tracer) and not variance > 0:
        raise ValueError(f"variance: got {variance}; give a positive number")
    level = clean_at_zero(schedule).level

    def step(keys, denoise, x, memory, t, s):
        guess, noisy, clean = denoise(x, t), level(t), level(s)
        x0_variance = eta / (1 / variance + (noisy.alpha / noisy.sigma) ** 2)
        lost = (clean.alpha - noisy.alpha * clean.sigma / noisy.sigma) ** 2 * x0_variance
        size = jnp.mean(guess.eps**2, axis=tuple(range(1, x.ndim)), keepdims=True)
        adjusted = clean.alpha * guess.x0 + jnp.sqrt(clean.sigma**2 + lost / size) * guess.eps
        return jnp.where(s > 0, adjusted, guess.x0), memory

    return Sampler(lambda x, steps: (), step)
