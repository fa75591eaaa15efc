"""Schedules of a continuous time.

The variance-preserving ones are a logsnr between two limits, never a cosine of t: cos(pi / 2) is negative in
float32. Their paper's curve is cut off at the limits and its time stretched, so that it still falls strictly.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.gaussian import NoiseLevel
from diffusion.schedules.base import Schedule, floating, variance_preserving


def stretched(logsnr: Callable, time: Callable, logsnr_min: float, logsnr_max: float) -> Schedule:
    """The part of a curve between the limits: logsnr(u, 1 - u) and its inverse time(logsnr, xp) -> (u, 1 - u).

    1 - u is carried beside u, since near 1 float32 has no digits left for the difference. Raises ValueError unless
    logsnr_min < logsnr_max within +-80, the reach of alpha^2 in float32.
    """
    if not -80 < logsnr_min < logsnr_max < 80:
        raise ValueError(f"logsnr_min: got {logsnr_min} with logsnr_max {logsnr_max}; give min < max within +-80")
    (start, co_start), (end, co_end) = (map(float, time(limit, np)) for limit in (logsnr_max, logsnr_min))

    def level(t: Array) -> NoiseLevel:
        t = floating(t)
        return variance_preserving(logsnr((1 - t) * start + t * end, (1 - t) * co_start + t * co_end))

    def back(logsnr: Array) -> Array:
        return jnp.clip((time(floating(logsnr), jnp)[0] - start) / (end - start), 0, 1)

    return Schedule(level, back)


# Nichol and Dhariwal 2021 without the offset; the limits are simple diffusion's (section 3.1 and its appendix)
def cosine(logsnr_min: float = -15.0, logsnr_max: float = 15.0) -> Schedule:
    """logsnr = -2 log tan(u pi / 2)."""

    def logsnr(u: Array, co_u: Array) -> Array:
        return 2 * (jnp.log(jnp.sin(co_u * math.pi / 2)) - jnp.log(jnp.sin(u * math.pi / 2)))

    def time(logsnr: Array, xp) -> tuple[Array, Array]:
        return xp.arctan(xp.exp(-logsnr / 2)) * 2 / math.pi, xp.arctan(xp.exp(logsnr / 2)) * 2 / math.pi

    return stretched(logsnr, time, logsnr_min, logsnr_max)


# Jabri et al. 2022 (RIN), table of noise schedules; Chen 2023, algorithm 1
def sigmoid(
    start: float = -3.0, end: float = 3.0, tau: float = 1.0, logsnr_min: float = -15.0, logsnr_max: float = 15.0
) -> Schedule:
    """alpha^2 = (s(1) - s(u)) / (s(1) - s(0)) with s(u) = sigmoid((start + u (end - start)) / tau).

    In logsnr this is log sinh(d (1 - u)) - log sinh(d u) + a constant, d = (end - start) / (2 tau), which keeps its
    digits at both ends. Raises ValueError unless start < end and tau > 0.
    """
    if not (start < end and tau > 0):
        raise ValueError(f"start: got {start} with end {end} and tau {tau}; give start < end and tau > 0")
    d = (end - start) / (2 * tau)
    constant = math.log(math.cosh(start / (2 * tau)) / math.cosh(end / (2 * tau)))

    def logsnr(u: Array, co_u: Array) -> Array:
        return jnp.log(jnp.sinh(d * co_u)) - jnp.log(jnp.sinh(d * u)) + constant

    def time(logsnr: Array, xp) -> tuple[Array, Array]:
        ratio = xp.exp(logsnr - constant)
        u, co_u = (xp.arctanh(math.sinh(d) / (r + math.cosh(d))) / d for r in (ratio, 1 / ratio))
        return u, co_u

    return stretched(logsnr, time, logsnr_min, logsnr_max)


# Hang et al. 2024, "Improved noise schedule", section 3
def laplace(mean: float = 0.0, scale: float = 0.5, logsnr_min: float = -7.0, logsnr_max: float = 15.0) -> Schedule:
    """A uniform time draws logsnr from the Laplace distribution. Raises ValueError unless scale > 0.

    logsnr_min is as low as float32 times near 1 can tell apart at this scale.
    """
    if not scale > 0:
        raise ValueError(f"scale: got {scale}; give a positive number")

    def logsnr(u: Array, co_u: Array) -> Array:
        return mean + scale * jnp.where(u < co_u, -jnp.log(2 * u), jnp.log(2 * co_u))

    def time(logsnr: Array, xp) -> tuple[Array, Array]:
        tail = xp.exp(-abs(logsnr - mean) / scale) / 2
        clean = logsnr > mean
        return xp.where(clean, tail, 1 - tail), xp.where(clean, 1 - tail, tail)

    return stretched(logsnr, time, logsnr_min, logsnr_max)


# Song et al. 2021 (score SDEs) appendix C, eq. (33); `first` is the smallest time that it trains on
def vp(beta_min: float = 0.1, beta_max: float = 20.0, first: float = 1e-5) -> Schedule:
    """The continuous form of DDPM's linear betas: alpha = exp(-B / 2), B the integral of beta from 0 to t."""
    integral, back = _linear_beta(beta_min, beta_max, first)

    def level(t: Array) -> NoiseLevel:
        b = integral(floating(t))
        return NoiseLevel(jnp.exp(-b / 2), jnp.sqrt(-jnp.expm1(-b)))

    return Schedule(level, lambda logsnr: back(jax.nn.softplus(-floating(logsnr))))


# Song et al. 2021 appendix C, eq. (34)
def sub_vp(beta_min: float = 0.1, beta_max: float = 20.0, first: float = 1e-5) -> Schedule:
    """The sub-VP SDE: vp's alpha with sigma = 1 - alpha^2, so that alpha^2 + sigma^2 < 1."""
    integral, back = _linear_beta(beta_min, beta_max, first)

    def level(t: Array) -> NoiseLevel:
        b = integral(floating(t))
        return NoiseLevel(jnp.exp(-b / 2), -jnp.expm1(-b))

    def time(logsnr: Array) -> Array:
        ratio = jnp.exp(floating(logsnr) / 2)  # alpha / (1 - alpha^2)
        alpha = 2 * ratio / (1 + jnp.sqrt(1 + 4 * ratio**2))
        b = jnp.where(ratio < 1, -2 * jnp.log(alpha), -jnp.log1p(-alpha / ratio))
        return back(b)

    return Schedule(level, time)


def _linear_beta(beta_min: float, beta_max: float, first: float) -> tuple[Callable, Callable]:
    """(t -> integral of beta, its inverse), t in [0, 1] covering [first, 1]."""
    if not (0 < beta_min < beta_max and 0 < first < 1):
        raise ValueError(
            f"beta_min: got {beta_min}, beta_max {beta_max}, first {first}; give 0 < min < max, first in (0, 1)"
        )
    slope = beta_max - beta_min

    def integral(t: Array) -> Array:
        t = first + (1 - first) * t
        return beta_min * t + slope / 2 * t**2

    def back(b: Array) -> Array:
        t = 2 * b / (beta_min + jnp.sqrt(beta_min**2 + 2 * slope * b))
        return jnp.clip((t - first) / (1 - first), 0, 1)

    return integral, back


# Song et al. 2021 appendix C, eq. (30)
def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Schedule:
    """Variance exploding: alpha = 1, sigma geometric in t."""
    _limits(sigma_min, sigma_max)
    span = math.log(sigma_max / sigma_min)
    return _exploding(
        lambda t: sigma_min * jnp.exp(span * t),
        lambda sigma: jnp.log(sigma / sigma_min) / span,
    )


# Karras et al. 2022 (EDM) eq. (5)
def edm(sigma_min: float = 2e-4, sigma_max: float = 80.0, rho: float = 7.0) -> Schedule:
    """Variance exploding: alpha = 1, sigma^(1 / rho) linear in t.

    sigma_min lies below EDM's .002, where its grid ends (karras), because t = 0 is data and its training draws
    go there.
    """
    _limits(sigma_min, sigma_max)
    if not rho > 0:
        raise ValueError(f"rho: got {rho}; give a positive number")
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return _exploding(
        lambda t: (low + t * (high - low)) ** rho,
        lambda sigma: (sigma ** (1 / rho) - low) / (high - low),
    )


def _exploding(sigma_at: Callable, time_of: Callable) -> Schedule:
    def level(t: Array) -> NoiseLevel:
        sigma = sigma_at(floating(t))
        return NoiseLevel(jnp.ones_like(sigma), sigma)

    return Schedule(level, lambda logsnr: jnp.clip(time_of(jnp.exp(-floating(logsnr) / 2)), 0, 1))


def _limits(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"sigma_min: got {sigma_min} with sigma_max {sigma_max}; give 0 < min < max")


# Liu et al. 2022; the shift is Esser et al. 2024 (SD3) eq. (23)
def flow(shift: float = 1.0) -> Schedule:
    """Rectified flow: alpha = 1 - u, sigma = u, with u = shift t / (1 + (shift - 1) t).

    It begins in data and ends in pure noise: alpha(1) = 0. Raises ValueError unless shift > 0.
    """
    if not shift > 0:
        raise ValueError(f"shift: got {shift}; give a positive number, 1 for none")

    def level(t: Array) -> NoiseLevel:
        t = floating(t)
        return NoiseLevel((1 - t) / (1 + (shift - 1) * t), shift * t / (1 + (shift - 1) * t))

    return Schedule(level, lambda logsnr: jax.nn.sigmoid(-floating(logsnr) / 2 - math.log(shift)))
