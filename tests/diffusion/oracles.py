"""Closed-form denoisers, which need no network, and the moments that a sampler makes of them."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.gaussian import Prediction
from diffusion.sampling import normal


def predict(x0, x, level, frac=None):
    return Prediction(x0, (x - level.alpha * x0) / level.sigma, frac)


def gaussian(schedule, mean=0.0, variance=0.25, frac=None):
    """E[x0 | x_t] of data N(mean, variance), pixel by pixel."""

    def denoise(x, t):
        level = schedule.level(t)
        gain = level.alpha * variance / (level.alpha**2 * variance + level.sigma**2)
        x0 = mean + gain * (x - level.alpha * mean)
        return predict(x0, x, level, None if frac is None else jnp.full_like(x, frac))

    return denoise


def mixture(schedule, weights, means, variance):
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


def affine(sampler, denoise, *grids):
    """On a Gaussian oracle a step is x -> a x + b + c z: for each grid, (a, b, c) of its steps, measured."""
    keys = jax.vmap(jax.random.key)(jnp.array([0, 0, 1]))
    z = normal(keys, (1, 1, 1)).ravel()
    x = jnp.array([0.0, 1.0, 0.0]).reshape(3, 1, 1, 1)

    def probe(t, s):
        y = sampler.step(keys, denoise, x, sampler.init(x), t, s)[0].ravel()
        c = (y[0] - y[2]) / (z[0] - z[2])
        return y[1] - y[0], y[0] - c * z[0], c

    steps = jax.jit(jax.vmap(probe))(
        *(np.concatenate(ends) for ends in ([g[:-1] for g in grids], [g[1:] for g in grids]))
    )
    bounds = np.cumsum([len(grid) - 1 for grid in grids])[:-1]
    return list(zip(*(np.split(np.asarray(each), bounds) for each in steps), strict=True))


def moments(coefficients, mean, variance):
    """Mean and variance after each step of the recursion x -> a x + b + c z."""
    path = []
    for a, b, c in zip(*coefficients, strict=True):
        mean, variance = a * mean + b, a**2 * variance + c**2
        path.append((mean, variance))
    return np.array(path)
