"""The terms of the variational bound, in bits per dimension (DDPM section 3, iDDPM section 3.1)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.gaussian import NoiseLevel, Prediction, corrupt, interpolate_log_variance, posterior
from diffusion.prediction import Denoise
from diffusion.sampling import normal, stream
from diffusion.schedules import Schedule, clean_at_zero, within


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
    return bits(jnp.where(t < 1.5 * step, decoder, kl))


# DDPM eq. (5): L_T
def prior_term(x0: Array, last: NoiseLevel, std: Array = 1.0) -> Array:
    """KL(q(x_1 | x0) || N(0, std^2)): [b], bits/dim. std is 1 in the papers; sampling starts from sigma(1)."""
    mean, zeros = last.alpha * x0, jnp.zeros_like(x0)
    return bits(normal_kl(mean, 2 * jnp.log(last.sigma), zeros, 2 * jnp.log(std) + zeros))


# Kingma et al. 2021 (VDM) eq. (13), with the decoder above
def data_term(x0: Array, eps: Array, first: NoiseLevel) -> Array:
    """-log p(x0 | x at the first level), of a continuous schedule: [b], bits/dim."""
    mean = corrupt(x0, eps, first) / first.alpha
    return bits(-discretised_log_likelihood(x0, mean, jnp.broadcast_to(jnp.log(first.ratio), x0.shape)))


def bits(nats: Array) -> Array:
    """Nats of each value [b h w c] to bits per dimension [b]."""
    return jnp.mean(nats, axis=tuple(range(1, nats.ndim))) / math.log(2)


class Bound(NamedTuple):
    """The variational bound in bits/dim: prior [b] and terms [T b], from t = 1 down to the decoder's."""

    prior: Array
    terms: Array

    @property
    def total(self) -> Array:
        return self.prior + self.terms.sum(axis=0)


def variational_bound(keys: Array, denoise: Denoise, schedule: Schedule, x0: Array, frac: float | None = None) -> Bound:
    """Every term of a table's bound once, with noise from keys [b]: T network calls.

    The variance is the learned one, or fixed by frac: 0 is the posterior's, 1 the forward step's.
    """
    if schedule.steps is None:
        raise ValueError("likelihood: variational_bound needs a discrete schedule; use probability_flow.log_likelihood")

    def term(k: Array) -> Array:
        t = k / schedule.steps
        x_t = corrupt(x0, normal(stream(keys, k), x0.shape[1:], x0.dtype), schedule.level(t))
        guess = denoise(x_t, t)
        guess = guess if frac is None else guess._replace(frac=frac)
        return variational_term(schedule, guess, x0, x_t, t)

    terms = jax.lax.map(term, jnp.arange(schedule.steps, 0, -1))
    return Bound(prior_term(x0, schedule.level(jnp.ones(()))), terms)


# Kingma et al. 2021 (VDM) eqs. (11), (17): the diffusion term as an integral over logsnr
def continuous_bound(
    keys: Array, denoise: Denoise, schedule: Schedule, x0: Array, draws: int, cleanest: float = 9.2
) -> Bound:
    """The bound in continuous time, of any schedule, `draws` network calls. terms are [draws + 1, b].

    The diffusion term comes in equal strata of logsnr, one draw in each, so that their sum is unbiased; the data term
    is last. Noise and places come from keys [b].

    cleanest is the logsnr of the data term, any of which gives a bound: 9.2 is DDPM's first level, whose noise is a
    grey level and a bit. Below a third of one (13.3, where VDM begins) the bound rises by half a bit unless the
    network has learnt that there are but 256 values.
    """
    t_first, t_last = within(schedule, cleanest)
    first, last = (schedule.level(t.astype(x0.dtype)) for t in (t_first, t_last))
    width = (first.logsnr - last.logsnr) / draws

    def noise(j: Array) -> Array:
        return normal(stream(keys, 2 * j), x0.shape[1:], x0.dtype)

    def term(j: Array) -> Array:
        u = jax.vmap(lambda key: jax.random.uniform(key, (1, 1, 1), x0.dtype))(stream(keys, 2 * j + 1))
        t = schedule.time(first.logsnr - width * (j + u))
        eps = noise(j)
        guess = denoise(corrupt(x0, eps, schedule.level(t)), t)
        return width / 2 * bits((eps - guess.eps) ** 2)

    terms = jax.lax.map(term, jnp.arange(draws))
    data = data_term(x0, noise(jnp.asarray(draws)), first)
    return Bound(prior_term(x0, last, last.sigma), jnp.concatenate([terms, data[None]]))
