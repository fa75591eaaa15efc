"""When: how a training time is drawn, and the grids of times that sampling walks.

Draws are (keys [b], schedule) -> t [b 1 1 1], each example's from its own key. Grids are
(schedule, steps) -> float64 numpy [steps + 1], descending from the noisiest time to 0.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.schedules import Schedule


def uniform(keys: Array, schedule: Schedule) -> Array:
    """t uniform on the levels 1/T .. 1 of a table, or on (0, 1]."""
    return at(_unit(keys), schedule)


# VDM's low-discrepancy sampler, jittered within each stratum, so that no key is shared
def stratified(keys: Array, schedule: Schedule) -> Array:
    """t uniform, with example i of b in the i-th of b equal parts: keys are the global batch's, in order."""
    i = jnp.arange(len(keys)).reshape(-1, 1, 1, 1)
    return at((i + _unit(keys)) / len(keys), schedule)


def _unit(keys: Array) -> Array:
    return jax.vmap(lambda key: jax.random.uniform(key, (1, 1, 1)))(keys)


def at(u: Array, schedule: Schedule) -> Array:
    """u in [0, 1) to a time, never to t = 0: it has no noise to remove."""
    if schedule.steps is None:
        return 1 - u
    return (jnp.minimum(jnp.floor(u * schedule.steps), schedule.steps - 1) + 1) / schedule.steps


def trailing(schedule: Schedule, steps: int) -> np.ndarray:
    """steps equal intervals from t = 1, rounded to a table's levels. The default: all the noise is seen."""
    _limit(schedule, steps)
    times = np.linspace(1, 0, steps + 1)
    return times if schedule.steps is None else np.rint(times * schedule.steps) / schedule.steps


# DDIM appendix D.2, as its code has it
def ddim_uniform(schedule: Schedule, steps: int) -> np.ndarray:
    """DDIM's 'linear' sub-sequence, indices 0, T/S, 2T/S ..: it starts at 900 of 1000 for S = 10.

    Raises ValueError where steps does not divide T: the paper's code then takes another number.
    """
    levels = _limit(schedule, steps, table="ddim_uniform")
    if levels % steps:
        raise ValueError(f"steps: got {steps}; ddim_uniform takes a divisor of {levels}, trailing any number")
    return _from_indices(np.arange(0, levels, levels // steps), levels)


# DDIM appendix D.2, as its code has it
def ddim_quadratic(schedule: Schedule, steps: int) -> np.ndarray:
    """DDIM's 'quadratic' sub-sequence, used on CIFAR-10: it starts at index 0.8 T.

    From sqrt(0.8 T) steps on it repeats its first indices, as the paper's runs did; a step between
    equal times changes nothing.
    """
    levels = _limit(schedule, steps, table="ddim_quadratic")
    return _from_indices(np.floor(np.linspace(0, np.sqrt(0.8 * levels), steps) ** 2), levels)


def _from_indices(indices: np.ndarray, levels: int) -> np.ndarray:
    """A table's indices 0 .. T - 1, ascending, to times that end at data."""
    return np.append((indices[::-1] + 1) / levels, 0.0)


def _limit(schedule: Schedule, steps: int, table: str | None = None) -> int | None:
    """The schedule's T. Raises ValueError where it is less than steps, or needed and there is none."""
    if table and schedule.steps is None:
        raise ValueError(f"grid: {table} needs a discrete schedule, and this one is continuous; use trailing")
    if steps != int(steps) or not 1 <= steps <= (schedule.steps or np.inf):
        raise ValueError(f"steps: got {steps}; this schedule takes 1 to {schedule.steps or 'any number'}")
    return schedule.steps


TIMES = {"uniform": uniform, "stratified": stratified}
GRIDS = {"trailing": trailing, "ddim_uniform": ddim_uniform, "ddim_quadratic": ddim_quadratic}
