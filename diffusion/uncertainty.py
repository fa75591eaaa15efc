"""A learned log variance of the loss at each noise level (Karras et al. 2024, EDM2, section 2.2 and appendix)."""

import math

import jax
import jax.numpy as jnp
from jax import Array


def init_uncertainty(key: Array, channels: int = 128) -> dict[str, Array]:
    """Parameters of u: fixed random Fourier features of the level, and a linear layer that starts at u = 0."""
    frequency_key, phase_key = jax.random.split(key)
    return {
        "frequency": 2 * math.pi * jax.random.normal(frequency_key, (channels,)),
        "phase": 2 * math.pi * jax.random.uniform(phase_key, (channels,)),
        "weight": jnp.zeros(channels),
    }


def log_variance(params: dict[str, Array], logsnr: Array) -> Array:
    """u [b] of levels logsnr [b 1 1 1]. The features are of log(sigma / alpha) / 4, and are not trained."""
    noise = -jnp.clip(logsnr, -40, 40).reshape(-1, 1) / 8
    frequency, phase = jax.lax.stop_gradient((params["frequency"], params["phase"]))
    features = math.sqrt(2) * jnp.cos(noise * frequency + phase)
    return features @ params["weight"] / math.sqrt(len(phase))
