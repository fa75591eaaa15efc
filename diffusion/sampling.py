"""The one sampling loop. A sampler is (init, step), as an optimiser is (init, update)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.prediction import Denoise
from diffusion.schedules import Schedule


class Sampler(NamedTuple):
    """init(x, steps) -> memory; step(keys, denoise, x, memory, t, s) -> (x, memory), from time t to s < t.

    keys [b] are the step's own; denoise is called where sigma > 0 alone; memory is any pytree, ()
    for one-step methods. calls(times) is how often denoise is called over a grid: the method's NFE.
    """

    init: Callable[[Array, int], Any]
    step: Callable[..., tuple[Array, Any]]
    calls: Callable[[Array], int] = lambda times: len(times) - 1


def check_range(name: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raises ValueError where a setting is known and outside [low, high]."""
    if not isinstance(value, jax.core.Tracer) and not low <= value <= high:
        raise ValueError(
            f"{name}: got {value}; give {low:g} to {high:g}"
            if high < math.inf
            else f"{name}: got {value}; give {low:g} or more"
        )


def normal(keys: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
    """Standard normal noise [b, *shape], example i's from keys[i] alone, whatever the batch."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)


def noised(keys: Array, mean: Array, std: Array, s: Array) -> Array:
    """mean + std z, and the mean itself where s = 0: the last step does not depend on its key."""
    return jnp.where(s > 0, mean + std * normal(keys, mean.shape[1:], mean.dtype), mean)


def stream(keys: Array, i: Array) -> Array:
    """The i-th stream of each example's key: 0 is the prior's, i + 1 that of step i."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, i)


def prior(keys: Array, shape: tuple[int, int, int], schedule: Schedule, t: Array = 1.0) -> Array:
    """x at the grid's first time t [b, *shape], with std sigma(t): seed i is image i."""
    return schedule.level(jnp.asarray(t, float)).sigma * normal(stream(keys, 0), shape)


def sample(keys: Array, denoise: Denoise, sampler: Sampler, times: Array, x: Array) -> Array:
    """Walks x [b h w c] from times[0] to times[-1] = 0, over the intervals of the grid times [steps + 1].

    keys [b] are typed (jax.random.key), one for each example, and may be those of the prior. Raises ValueError
    where the grid is known and does not end at data.
    """
    return _walk(keys, denoise, sampler, times, x, lambda x: None)[0]


def trajectory(keys: Array, denoise: Denoise, sampler: Sampler, times: Array, x: Array) -> Array:
    """As sample, with x at each time of the grid: [steps + 1 b h w c]."""
    path = _walk(keys, denoise, sampler, times, x, lambda x: x)[1]
    return jnp.concatenate([x[None], path])


def _walk(keys, denoise, sampler, times, x, record):
    if not isinstance(times, jax.core.Tracer) and times[-1] != 0:
        raise ValueError(f"times: the grid ends at t = {float(times[-1]):.4g}; it must end at data, t = 0")
    times = jnp.asarray(times, jnp.promote_types(x.dtype, jnp.float32))

    def body(carry, interval):
        i, t, s = interval
        x, memory = sampler.step(stream(keys, i + 1), denoise, *carry, t, s)
        return (x, memory), record(x)

    intervals = (jnp.arange(len(times) - 1), times[:-1], times[1:])
    (x, _), path = jax.lax.scan(body, (x, sampler.init(x, len(times) - 1)), intervals)
    return x, path
