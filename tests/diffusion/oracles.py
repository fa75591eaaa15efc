"""The library's closed-form denoisers, and the moments that a sampler makes of them."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.oracles import gaussian, mixture, predict
from diffusion.sampling import normal

__all__ = ["affine", "gaussian", "mixture", "moments", "predict"]


def affine(sampler, denoise, *grids):
    """On a Gaussian oracle a step is x -> a x + b + c z: for each grid, (a, b, c) of its steps, measured."""
    keys = jax.vmap(jax.random.key)(jnp.array([0, 0, 1]))
    z = normal(keys, (1, 1, 1)).ravel()
    x = jnp.array([0.0, 1.0, 0.0]).reshape(3, 1, 1, 1)

    def probe(t, s):
        y = sampler.step(keys, denoise, x, sampler.init(x, 1), t, s)[0].ravel()
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
