"""Closed-form denoisers, which need no network: what a perfectly trained one would say."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.gaussian import NoiseLevel, Prediction
from diffusion.prediction import Denoise
from diffusion.schedules import Schedule


def predict(x0: Array, x: Array, level: NoiseLevel, frac: Array | None = None) -> Prediction:
    """The prediction of this x0 that explains x."""
    return Prediction(x0, (x - level.alpha * x0) / level.sigma, frac)


def gaussian(schedule: Schedule, mean: float = 0.0, variance: float = 0.25, frac: float | None = None) -> Denoise:
    """E[x0 | x_t] of data N(mean, variance), pixel by pixel; with a learned variance where frac is given."""

    def denoise(x, t):
        level = schedule.level(t)
        gain = level.alpha * variance / (level.alpha**2 * variance + level.sigma**2)
        x0 = mean + gain * (x - level.alpha * mean)
        return predict(x0, x, level, None if frac is None else jnp.full_like(x, frac))

    return denoise


def mixture(schedule: Schedule, weights: Sequence[float], means: Array, variance: float) -> Denoise:
    """E[x0 | x_t] of a mixture of isotropic Gaussians over the channels: weights [k], means [k c]."""
    log_weights, means = jnp.log(jnp.asarray(weights)), jnp.asarray(means)

    def denoise(x, t):
        level = schedule.level(t)
        total = level.alpha**2 * variance + level.sigma**2
        offset = x[..., None, :] - level.alpha * means  # b h w k c
        posterior = jax.nn.softmax(log_weights - jnp.sum(offset**2, -1) / (2 * total))
        each = means + level.alpha * variance / total * offset
        return predict(jnp.sum(posterior[..., None] * each, -2), x, level)

    return denoise


def correlated(schedule: Schedule, mean: Array, covariance: Array) -> Denoise:
    """E[x0 | x_t] of whole images N(mean, covariance): mean [h w c], covariance [hwc hwc]; t is []."""
    mean, (variances, axes) = jnp.asarray(mean), jnp.linalg.eigh(jnp.asarray(covariance))

    def denoise(x, t):
        level = schedule.level(t)
        gain = level.alpha * variances / (level.alpha**2 * variances + level.sigma**2)
        offset = (x - level.alpha * mean).reshape(len(x), -1)
        return predict(mean + (offset @ axes * gain @ axes.T).reshape(x.shape), x, level)

    return denoise
