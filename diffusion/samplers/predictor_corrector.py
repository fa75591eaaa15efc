"""Predictor-corrector sampling (Song et al. 2021, score SDEs, algorithms 1, 4 and 5)."""

import jax
import jax.numpy as jnp

from diffusion.samplers.ancestral import ancestral
from diffusion.sampling import Sampler, check_range, normal, stream
from diffusion.schedules import Schedule, clean_at_zero


def predictor_corrector(schedule: Schedule, *, snr: float = 0.16, corrections: int = 1) -> Sampler:
    """The ancestral step, then `corrections` steps of Langevin dynamics at its level, none at data.

    N + corrections (N - 1) network calls. A correction is as long as makes its drift snr times its noise, by the
    norms of each example (the paper's code takes their means over the batch, so that batch mates matter). Its
    stationary distribution is biased by its length, however many steps are taken; in a few dimensions, where the
    norms scatter, it has hardly a variance.
    """
    if type(corrections) is not int or corrections < 1:
        raise ValueError(f"corrections: got {corrections}; give 1 or more, or use ancestral")
    check_range("snr", snr, 0)
    level, predictor = clean_at_zero(schedule).level, ancestral(schedule)

    def correct(keys, denoise, x, s):
        z, score = normal(keys, x.shape[1:], x.dtype), -denoise(x, s).eps / level(s).sigma
        size = 2 * (snr * _norm(z) / _norm(score)) ** 2
        return x + size * score + jnp.sqrt(2 * size) * z

    def step(keys, denoise, x, memory, t, s):
        x, memory = predictor.step(keys, denoise, x, memory, t, s)

        def corrected():
            return jax.lax.fori_loop(0, corrections, lambda i, x: correct(stream(keys, i), denoise, x, s), x)

        return jax.lax.cond(s > 0, corrected, lambda: x), memory

    return Sampler(predictor.init, step, lambda times: len(times) - 1 + corrections * (len(times) - 2))


def _norm(x):
    return jnp.sqrt(jnp.sum(x**2, axis=tuple(range(1, x.ndim)), keepdims=True))
