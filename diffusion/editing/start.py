"""Where sampling starts from when it does not start from pure noise: an image made noisy, or noise that was found."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.sampling import prior
from diffusion.schedules import Schedule


# Meng et al. 2022 (SDEdit) algorithm 2
def noisy(keys: Array, x0: Array, schedule: Schedule, t: Array) -> Array:
    """The images x0 [b h w c] at time t, with the noise that the prior of these keys has there."""
    return schedule.level(jnp.asarray(t, float)).alpha * x0 + prior(keys, x0.shape[1:], schedule, t)


def below(schedule: Schedule, times: np.ndarray, strength: float) -> np.ndarray:
    """The grid from t = strength on: that time, of a table the nearest, and the grid's times below it.

    A grid that itself starts below it stays as it is.

    Raises ValueError where strength is outside (0, 1], or below a table's first level.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength: got {strength}; give a time in (0, 1], 1 for pure noise")
    first = round(strength * schedule.steps) / schedule.steps if schedule.steps else strength
    if not first:
        raise ValueError(f"strength: {strength} is below the first of {schedule.steps} levels, {1 / schedule.steps:g}")
    return times if times[0] <= first else np.append(first, times[times < first])


def slerp(a: Array, b: Array, share: Array) -> Array:
    """From noise a (share 0) to noise b (1) [b h w c] along the great circle between their directions (DDIM D.5).

    With a and b of one norm so is all between; a mean of the two would be shorter, as no noise is. share is
    broadcast against [b].
    """
    axes = tuple(range(1, a.ndim))
    share = jnp.reshape(share, (-1, *[1] * (a.ndim - 1)))
    norms = jnp.sqrt(jnp.sum(a**2, axes, keepdims=True) * jnp.sum(b**2, axes, keepdims=True))
    angle = jnp.arccos(jnp.clip(jnp.sum(a * b, axes, keepdims=True) / norms, -1, 1))
    sine = jnp.sin(angle)
    straight = sine < 1e-4  # the same direction, or opposite ones, between which no circle is the nearest
    on_a = jnp.where(straight, 1 - share, jnp.sin((1 - share) * angle) / jnp.where(straight, 1, sine))
    on_b = jnp.where(straight, share, jnp.sin(share * angle) / jnp.where(straight, 1, sine))
    return on_a * a + on_b * b
