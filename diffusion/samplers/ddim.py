"""Denoising diffusion implicit models (Song et al. 2020)."""

import jax
import jax.numpy as jnp

from diffusion.gaussian import kept, renewed
from diffusion.sampling import Sampler, noised
from diffusion.schedules import Schedule, clean_at_zero


# DDIM eqs. (12), (16)
def ddim(schedule: Schedule, *, eta: float = 0.0) -> Sampler:
    """eta = 0 is deterministic, eta = 1 the ancestral step with the small variance; eta may be traced.

    Raises ValueError where eta is known and outside [0, 1].
    """
    if not isinstance(eta, jax.core.Tracer) and not 0 <= eta <= 1:
        raise ValueError(f"eta: got {eta}; give 0 (deterministic) to 1 (ancestral)")
    level = clean_at_zero(schedule).level

    def step(keys, denoise, x, memory, t, s):
        guess, noisy, clean = denoise(x, t), level(t), level(s)
        std = eta * clean.sigma * jnp.sqrt(renewed(noisy, clean))
        on_eps = clean.sigma * jnp.sqrt(1 - eta**2 + eta**2 * kept(noisy, clean))  # sqrt(sigma_s^2 - std^2)
        return noised(keys, clean.alpha * guess.x0 + on_eps * guess.eps, std, s), memory

    return Sampler(lambda x: (), step)
