"""The terms of the variational bound, in bits per dimension (DDPM section 3, iDDPM section 3.1)."""

import math

import jax.numpy as jnp
from jax import Array

from diffusion.gaussian import Prediction, interpolate_log_variance, posterior
from diffusion.schedules import Schedule, clean_at_zero


def normal_kl(mean: Array, log_variance: Array, other_mean: Array, other_log_variance: Array) -> Array:
    """KL(N(mean, .) || N(other_mean, .)), elementwise, in nats."""
    ratio = log_variance - other_log_variance
    distance = (mean - other_mean) ** 2 * jnp.exp(-other_log_variance)
    return 0.5 * (jnp.exp(ratio) - 1 - ratio + distance)


# DDPM eq. (13)
def discretised_log_likelihood(x: Array, mean: Array, log_std: Array) -> Array:
    """log of the mass that N(mean, std^2) puts on the bin of x, one of 256 values, elementwise in nats.

    x is in [-1, 1] and bins are 2/255 wide. The end bins reach to infinity, so that the 256 masses
    sum to one. The normal's CDF is its tanh approximation, and masses are floored at 1e-12, both as
    in the papers' code.
    """
    precision = jnp.exp(-log_std)
    below = _normal_cdf(precision * (x - mean - 1 / 255))
    above = _normal_cdf(precision * (x - mean + 1 / 255))
    mass = jnp.where(x > 0.999, 1, above) - jnp.where(x < -0.999, 0, below)
    return jnp.log(jnp.maximum(mass, 1e-12))


def _normal_cdf(y: Array) -> Array:
    return 0.5 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))


def log_variance_bounds(schedule: Schedule, t: Array) -> tuple[Array, Array]:
    """(log small, log large) of the step from t to t - 1/T of a table.

    The first level's small variance is 0, so its log is the second's ("clipped", DDPM and iDDPM).
    DDPM's fixedlarge takes that value too, at the first level only; iDDPM's learned range keeps
    beta_1 there as the larger bound.
    """
    level, step = clean_at_zero(schedule).level, 1 / schedule.steps
    second = jnp.maximum(t, 2 * step)
    small = posterior(level(second), level(second - step)).small
    large = posterior(level(t), level(t - step)).large
    return jnp.log(small), jnp.log(large)


# DDPM eq. (5): L_{t-1}, and L_0 at the first level; iDDPM eq. (15)
def variational_term(schedule: Schedule, guess: Prediction, x0: Array, x_t: Array, t: Array) -> Array:
    """The bound's term at time t [b 1 1 1] of a table, under guess's learned variance: [b], bits/dim.

    With s = t - 1/T, KL(q(x_s | x_t, x0) || p(x_s | x_t)), and where s = 0 the discretised decoder's
    -log p(x0 | x_t).
    """
    level, step = clean_at_zero(schedule).level, 1 / schedule.steps
    q = posterior(level(t), level(t - step))
    log_small, log_large = log_variance_bounds(schedule, t)
    log_variance = interpolate_log_variance(log_small, log_large, guess.frac)
    mean = q.on_x0 * guess.x0 + q.on_xt * x_t
    kl = normal_kl(q.on_x0 * x0 + q.on_xt * x_t, log_small, mean, log_variance)
    decoder = -discretised_log_likelihood(x0, mean, log_variance / 2)
    nats = jnp.where(t < 1.5 * step, decoder, kl)
    return jnp.mean(nats, axis=tuple(range(1, x0.ndim))) / math.log(2)
