"""Likelihood by the probability-flow ODE (Song et al. 2021, score SDEs, section 4.3 and appendix D)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.prediction import Denoise
from diffusion.schedules import Schedule, within

Field = Callable[[Array], Array]
# (field, x [b h w c]) -> (field(x), its divergence [b])
Divergence = Callable[[Field, Array], tuple[Array, Array]]


def hutchinson(keys: Array) -> Divergence:
    """An unbiased estimate by one Rademacher vector for each example, the same along the whole path."""

    def divergence(field: Field, x: Array) -> tuple[Array, Array]:
        v = jax.vmap(lambda key: jax.random.rademacher(key, x.shape[1:], x.dtype))(keys)
        value, along = jax.jvp(field, (x,), (v,))
        return value, jnp.sum(along * v, axis=tuple(range(1, x.ndim)))

    return divergence


def exact(field: Field, x: Array) -> tuple[Array, Array]:
    """The trace of the Jacobian, h w c network calls: for small images and for tests."""

    def along(i: Array) -> Array:
        v = jnp.zeros((math.prod(x.shape[1:]),), x.dtype).at[i].set(1).reshape(x.shape[1:])
        return jnp.sum(jax.jvp(field, (x,), (jnp.broadcast_to(v, x.shape),))[1] * v, axis=tuple(range(1, x.ndim)))

    return field(x), jax.lax.map(along, jnp.arange(math.prod(x.shape[1:]))).sum(axis=0)


class Likelihood(NamedTuple):
    """log p [b] of x at the first time, in nats of the whole image, and the noise [b h w c] that x came from."""

    log_p: Array
    noise: Array


def log_likelihood(denoise: Denoise, schedule: Schedule, x: Array, times: Array, divergence: Divergence) -> Likelihood:
    """log p of x [b h w c] under the model, with x at the level of times[0], where the walk up to times[-1] = 1 begins.

    y = x / alpha moves along r = sigma / alpha with dy / dr = eps, so that log p falls by the integral of eps's
    divergence; Heun's method for both, 2 network calls a step. Second order in the largest step. times rises and
    begins where sigma > 0: a sampling grid reversed, without its 0. Raises ValueError where that does not hold, and
    where alpha(1) = 0, since the noise's density in y is then unknown.
    """
    if not isinstance(times, jax.core.Tracer) and not (times[0] > 0 and times[-1] == 1):
        raise ValueError(f"times: got {float(times[0]):.4g} to {float(times[-1]):.4g}; they must rise from t > 0 to 1")
    last = schedule.level(jnp.ones((), x.dtype))
    if not isinstance(last.alpha, jax.core.Tracer) and last.alpha == 0:
        raise ValueError("schedule: alpha(1) = 0; stop short of pure noise with a schedule like cosine")
    times = jnp.asarray(times, jnp.promote_types(x.dtype, jnp.float32))

    def slope(y: Array, t: Array) -> tuple[Array, Array]:
        alpha = schedule.level(t).alpha
        return divergence(lambda y: denoise(alpha * y, t).eps, y)

    def body(carry, interval):
        y, total = carry
        t, after = interval
        h = schedule.level(after).ratio - schedule.level(t).ratio
        eps, spread = slope(y, t)
        eps_after, spread_after = slope(y + h * eps, after)
        return (y + h * (eps + eps_after) / 2, total + h * (spread + spread_after) / 2), None

    first, d = schedule.level(times[0]), math.prod(x.shape[1:])
    (y, total), _ = jax.lax.scan(body, (x / first.alpha, jnp.zeros(len(x), x.dtype)), (times[:-1], times[1:]))
    log_prior = jnp.sum(jax.scipy.stats.norm.logpdf(y, scale=last.ratio), axis=tuple(range(1, x.ndim)))
    return Likelihood(log_prior + total - d * jnp.log(first.alpha), y / last.ratio)


class Walk(NamedTuple):
    """A schedule, what denoises on it, and rising times from its first level to 1: what log_likelihood takes."""

    denoise: Denoise
    schedule: Schedule
    times: Array


def walk(denoise: Denoise, schedule: Schedule, steps: int, cleanest: float = 13.3) -> Walk:
    """The part of any schedule from logsnr `cleanest` on, its last time called 1, in steps equal in logsnr.

    Of a table the levels nearest to those, so that the network is fed times that it was trained on; where two
    are one, a step between them has no length. At 13.3 the noise is a third of a grey level.
    """
    first, last = within(schedule, cleanest)

    def stopped(t: Array) -> Array:
        return t * last

    logsnr = jnp.linspace(schedule.level(first).logsnr, schedule.level(last).logsnr, steps + 1)
    times = schedule.time(logsnr)
    times = jnp.round(times * schedule.steps) / schedule.steps if schedule.steps else times
    part = Schedule(lambda t: schedule.level(stopped(t)), lambda logsnr: schedule.time(logsnr) / last, schedule.steps)
    times = (times / last).at[0].set(first / last).at[-1].set(1)
    return Walk(lambda x, t: denoise(x, stopped(t)), part, times)


def dequantise(keys: Array, images: Array) -> Array:
    """uint8 [b h w c] to [-1, 1] with uniform noise over each value's bin, half of it to either side."""
    u = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys)
    return (images + u - 0.5) / 127.5 - 1


def bits_per_dim(log_p: Array, d: int) -> Array:
    """Nats of an image of d dequantised values in [-1, 1] to bits/dim of its 8-bit values: an upper bound."""
    return -log_p / (d * math.log(2)) + math.log2(127.5)
