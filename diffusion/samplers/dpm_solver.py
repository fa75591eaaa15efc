"""DPM-Solver++, multistep: exact in x, with x0 extrapolated along lambda = log(alpha / sigma).

eta = 0 solves the probability-flow ODE and eta = 1 the reverse SDE (Lu et al. 2022, DPM-Solver++; eta between, and
noise in the third order, are k-diffusion's). One network call a step. The step from pure noise is of first order,
and the last, to data, is the x0 prediction.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from diffusion.samplers.exponential import half_logsnr, phi
from diffusion.sampling import Sampler, check_range, noised
from diffusion.schedules import Schedule, clean_at_zero


# Lu et al. 2022, algorithm 2; the midpoint form of the authors' code
def dpmpp_2m(schedule: Schedule, *, eta: float = 0.0) -> Sampler:
    """Second order. eta may be traced."""

    def integral(h: Array, reach: Array, x0: Array, past: tuple) -> Array:
        ((before, k),) = past
        return -jnp.expm1(-reach) * (x0 + (x0 - before) * h * k / 2)

    return _multistep(schedule, eta, 1, integral)


# k-diffusion's sample_dpmpp_3m_sde, which has no paper, with its curvature put right
def dpmpp_3m_sde(schedule: Schedule, *, eta: float = 1.0) -> Sampler:
    """Third order where eta = 0, second with noise. eta may be traced.

    x0'' is twice the second divided difference. The known implementations leave the 2 out, and are of second order.
    """

    def integral(h: Array, reach: Array, x0: Array, past: tuple) -> Array:
        (before, k), (second, k_second) = past
        slope, earlier = (x0 - before) * h * k, (before - second) * h * k_second
        share = k_second / jnp.maximum(k + k_second, 1e-30)  # h before over the sum of both
        curve = (slope - earlier) * share
        terms = phi(1, -reach) * x0 + phi(2, -reach) * (slope + curve) + phi(3, -reach) * 2 * curve * h * k
        return reach * terms

    return _multistep(schedule, eta, 2, integral)


def _multistep(schedule: Schedule, eta: Array, remembered: int, integral: Callable) -> Sampler:
    """integral(h, (1 + eta) h, x0, past): that of x0's weight over the step of h in lambda.

    past, newest first: (x0, 1 / h of the step that it took), 1 / h = 0 for a step from pure noise or none.
    """
    check_range("eta", eta, 0, 1)
    level = clean_at_zero(schedule).level

    def init(x, steps):
        return ((jnp.zeros_like(x), jnp.zeros((), x.dtype)),) * remembered

    def step(keys, denoise, x, past, t, s):
        noisy, clean, x0 = level(t), level(s), denoise(x, t).x0
        h = half_logsnr(clean) - half_logsnr(noisy)
        mean = clean.sigma / noisy.sigma * jnp.exp(-eta * h) * x + clean.alpha * integral(h, (1 + eta) * h, x0, past)
        std = clean.sigma * jnp.sqrt(-jnp.expm1(-2 * eta * h))
        now = x0, jnp.where(noisy.alpha > 0, 1 / h, 0)
        return noised(keys, jnp.where(s > 0, mean, x0), std, s), (now, *past[:-1])

    return Sampler(init, step)
