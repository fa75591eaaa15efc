"""When: how a training time is drawn.

Each distribution is drawn from by its quantile u in [0, 1), so that any of them can be stratified over the batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtri

from diffusion.schedules import Schedule


class Times(NamedTuple):
    """draw(memory, u, schedule) -> (t [b 1 1 1], weight [b] on the loss, which keeps its mean that of uniform t).

    memory is what a distribution learns from the losses seen: init() makes it, learn(memory, t, losses [b], valid
    [b]) -> memory. {} for those that do not learn.
    """

    draw: Callable[[Any, Array, Schedule], tuple[Array, Array]]
    init: Callable[[], Any] = dict
    learn: Callable[..., Any] = lambda memory, t, losses, valid: memory


def units(keys: Array) -> Array:
    """u in [0, 1) [b 1 1 1], each example's from its own key."""
    return jax.vmap(lambda key: jax.random.uniform(key, (1, 1, 1)))(keys)


# VDM's low-discrepancy sampler, jittered within each stratum, so that no key is shared
def stratified(u: Array, position: Array, batch_size: int) -> Array:
    """u with example i of the global batch moved into the i-th of batch_size equal parts; position [b] is i."""
    return jnp.minimum((position.reshape(-1, 1, 1, 1) + u) / batch_size, 1 - 2**-24)  # it may round to 1


def at(u: Array, schedule: Schedule) -> Array:
    """u in [0, 1) to a uniform time, never to t = 0: it has no noise to remove."""
    if schedule.steps is None:
        return 1 - u
    return (jnp.minimum(jnp.floor(u * schedule.steps), schedule.steps - 1) + 1) / schedule.steps


def uniform() -> Times:
    """t uniform on the levels 1/T .. 1 of a table, or on (0, 1]."""
    return _fixed(at)


# Esser et al. 2024 (SD3) section 3.1
def logit_normal(mean: float = 0.0, std: float = 1.0) -> Times:
    """log(t / (1 - t)) ~ N(mean, std^2), on a table rounded to its levels."""
    _positive("std", std)
    return _fixed(lambda u, schedule: _snapped(jax.nn.sigmoid(mean + std * _normal_quantile(u)), schedule))


# Karras et al. 2022 (EDM) table 1
def log_normal(mean: float = -1.2, std: float = 1.2) -> Times:
    """log(sigma / alpha) ~ N(mean, std^2), within what the schedule reaches, on a table rounded to its levels."""
    _positive("std", std)
    return _fixed(lambda u, schedule: _snapped(schedule.time(-2 * (mean + std * _normal_quantile(u))), schedule))


def _fixed(time_at: Callable[[Array, Schedule], Array]) -> Times:
    return Times(lambda memory, u, schedule: (time_at(u, schedule), jnp.ones(len(u), u.dtype)))


def _normal_quantile(u: Array) -> Array:
    return ndtri(jnp.clip(u, 1e-7, 1 - 1e-7))


def _snapped(t: Array, schedule: Schedule) -> Array:
    if schedule.steps is None:
        return t
    return jnp.clip(jnp.round(t * schedule.steps), 1, schedule.steps) / schedule.steps


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name}: got {value}; give a positive number")


# iDDPM section 3.3 and its code: the last losses of each level, and a little of the uniform distribution
def importance(levels: int, history: int = 10, uniform: float = 0.001) -> Times:
    """P(level) proportional to the root mean square of its last losses, for a table of `levels`.

    Uniform until every level has seen `history` losses. The loss is weighted by 1 / (T p), so that its mean stays.
    Raises ValueError where uniform, the share drawn regardless, is not in (0, 1].
    """
    if not 0 < uniform <= 1:
        raise ValueError(f"uniform: got {uniform}; give a share in (0, 1]")
    if type(history) is not int or history < 1:
        raise ValueError(f"history: got {history}; give a whole number of losses, 1 or more")

    def init() -> dict[str, Array]:
        return {"losses": jnp.zeros((levels, history)), "seen": jnp.zeros(levels, jnp.int32)}

    def draw(memory, u, schedule):
        size = jnp.sqrt(jnp.mean(memory["losses"] ** 2, axis=1)) + 1e-20  # all may be 0
        p = (1 - uniform) * size / size.sum() + uniform / levels
        p = jnp.where(jnp.all(memory["seen"] >= history), p, 1 / levels)
        k = jnp.searchsorted(jnp.cumsum(p), u, side="right").clip(max=levels - 1)
        return (k + 1) / levels, (1 / (levels * p[k])).reshape(-1)

    def learn(memory, t, losses, valid):
        k = jnp.where(valid, jnp.round(t.reshape(-1) * levels).astype(jnp.int32) - 1, levels)  # levels: nowhere
        same = k[:, None] == k
        earlier, later = jnp.tril(same, -1).sum(axis=1), jnp.triu(same, 1).sum(axis=1)
        slot = (memory["seen"].at[k].get(mode="clip") + earlier) % history
        kept = jnp.where(later < history, k, levels)  # the rest the same batch pushes out again
        return {
            "losses": memory["losses"].at[kept, slot].set(losses, mode="drop"),
            "seen": memory["seen"].at[k].add(1, mode="drop"),
        }

    return Times(draw, init, learn)


TIMES = {"uniform": uniform, "logit_normal": logit_normal, "log_normal": log_normal, "importance": importance}
