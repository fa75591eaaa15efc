"""Denoising diffusion implicit models (Song et al. 2020): sampling, and its inversion."""

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.gaussian import kept, renewed
from diffusion.prediction import Denoise
from diffusion.sampling import Sampler, check_range, noised
from diffusion.schedules import Schedule, clean_at_zero


# DDIM eqs. (12), (16)
def ddim(schedule: Schedule, *, eta: float = 0.0) -> Sampler:
    """eta = 0 is deterministic, eta = 1 the ancestral step with the small variance; eta may be traced.

    Raises ValueError where eta is known and outside [0, 1].
    """
    check_range("eta", eta, 0, 1)
    level = clean_at_zero(schedule).level

    def step(keys, denoise, x, memory, t, s):
        guess, noisy, clean = denoise(x, t), level(t), level(s)
        std = eta * clean.sigma * jnp.sqrt(renewed(noisy, clean))
        on_eps = clean.sigma * jnp.sqrt(1 - eta**2 + eta**2 * kept(noisy, clean))  # sqrt(sigma_s^2 - std^2)
        return noised(keys, clean.alpha * guess.x0 + on_eps * guess.eps, std, s), memory

    return Sampler(lambda x, steps: (), step)


# DDIM section 4.3: eq. (14) walked towards noise
def invert(denoise: Denoise, schedule: Schedule, times: Array, x: Array) -> Array:
    """The noise at times[0] from which DDIM (eta = 0) over the same grid leads back to about the images x [b h w c].

    times is a grid as sampling walks it, down to 0. The step from s up to t takes the prediction at s for that at
    t, and the first, from data, x itself as x0 and the eps of the first positive time: the denoiser is never called
    at sigma = 0. The error falls with the number of steps.
    """
    level = clean_at_zero(schedule).level
    times = jnp.asarray(times, jnp.promote_types(x.dtype, jnp.float32))[::-1]

    def body(x, interval):
        s, t = interval
        noisier, guess = level(t), denoise(x, jnp.maximum(s, times[1]))
        return noisier.alpha * jnp.where(s > 0, guess.x0, x) + noisier.sigma * guess.eps, None

    return jax.lax.scan(body, x, (times[:-1], times[1:]))[0]
