"""Exponential moving averages of the parameters, one for each decay, updated once per optimiser step in float32."""

import jax
import jax.numpy as jnp


def name(decay: float) -> str:
    """The name under which an average is stored and asked for: its decay as Python writes it, '0.9999'."""
    return repr(float(decay))


def warmed_up(decay: float, updates: jax.Array) -> jax.Array:
    """min(decay, (1 + n) / (10 + n)) after n earlier updates: a young average follows the parameters closely."""
    n = updates.astype(jnp.float32)
    return jnp.minimum(decay, (1 + n) / (10 + n))


def update(average, params, decay):
    """decay * average + (1 - decay) * params, leaf by leaf."""
    return jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), average, params)


def update_all(averages: dict, params, decays: tuple[float, ...], updates: jax.Array, warmup: bool) -> dict:
    """Every average one step on. updates: [] int32, how many came before; with `warmup` decays grow with it."""
    return {
        name(decay): update(averages[name(decay)], params, warmed_up(decay, updates) if warmup else decay)
        for decay in decays
    }
