"""What the exponential integrators share."""

import math

import jax.numpy as jnp
from jax import Array

from diffusion.gaussian import NoiseLevel


def half_logsnr(level: NoiseLevel) -> Array:
    """lambda = log(alpha / sigma), within +-40, where exp(-lambda) has long ended in float64."""
    return jnp.clip(level.logsnr / 2, -40, 40)


def phi(k: int, z: Array) -> Array:
    """phi_0 = exp, phi_k(z) = (phi_{k-1}(z) - 1 / (k-1)!) / z, for z <= 0.

    Near 0, where that would cancel, by its series, the sum over j of z^j / (j + k)!.
    """
    series = sum(z**j * (1 / math.factorial(j + k)) for j in reversed(range(16)))
    far = jnp.minimum(z, -1)
    value = jnp.exp(far)
    for i in range(k):
        value = (value - 1 / math.factorial(i)) / far
    return jnp.where(z < -1, value, series)
