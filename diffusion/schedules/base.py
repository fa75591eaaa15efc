"""What a schedule is, and what holds for every one."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.gaussian import NoiseLevel


class Schedule(NamedTuple):
    """level(t) -> NoiseLevel; time(logsnr) -> t, its inverse; steps = T of a table, None where continuous."""

    level: Callable[[Array], NoiseLevel]
    time: Callable[[Array], Array]
    steps: int | None = None


def clean_at_zero(schedule: Schedule) -> Schedule:
    """The schedule as sampling walks it: t = 0 is literally the level (1, 0), whatever sigma(0) is."""

    def level(t: Array) -> NoiseLevel:
        alpha, sigma = schedule.level(t)
        return NoiseLevel(jnp.where(t > 0, alpha, 1), jnp.where(t > 0, sigma, 0))

    return schedule._replace(level=level)


def variance_preserving(logsnr: Array) -> NoiseLevel:
    """The level with alpha^2 + sigma^2 = 1 at this logsnr: alpha^2 = sigmoid(l), sigma^2 = sigmoid(-l)."""
    return NoiseLevel(jnp.sqrt(jax.nn.sigmoid(logsnr)), jnp.sqrt(jax.nn.sigmoid(-logsnr)))


def preserves_variance(schedule: Schedule) -> bool:
    """Whether alpha^2 + sigma^2 = 1 on the way."""
    with jax.ensure_compile_time_eval():
        alpha, sigma = schedule.level(jnp.linspace(0, 1, 9))
        return bool(jnp.all(abs(alpha**2 + sigma**2 - 1) < 1e-4))


def last_time(schedule: Schedule) -> float:
    """The smallest time that a grid takes before data: 1 / T of a table, 1e-3 where t is continuous."""
    return 1 / (schedule.steps or 1000)


def within(schedule: Schedule, cleanest: float, noisiest: float = -13.3) -> tuple[Array, Array]:
    """(first, last) time at which logsnr is at most `cleanest` and at least `noisiest`.

    A likelihood lives there: a schedule that ends in pure noise, or begins in data, has no density at its end. Of a
    table both are levels.
    """
    first, last = (schedule.time(jnp.asarray(logsnr)) for logsnr in (cleanest, noisiest))
    if schedule.steps:
        return jnp.ceil(first * schedule.steps) / schedule.steps, jnp.floor(last * schedule.steps) / schedule.steps
    return first, last


def rate(schedule: Schedule, t: Array) -> Array:
    """-d logsnr / dt at t, positive; of a table the central difference, one-sided at its ends.

    Finite where the schedule ends in pure noise or begins in data: the ends are approached to 1e-6, and a
    table's logsnr is taken within +-40.
    """
    if schedule.steps:
        step = 1 / schedule.steps
        after, before = jnp.minimum(t + step, 1), jnp.maximum(t - step, step)
        fall = schedule.level(before).bounded_logsnr - schedule.level(after).bounded_logsnr
        return fall / (after - before)
    t = jnp.clip(t, 1e-6, 1 - 1e-6)
    return -jax.jvp(lambda t: schedule.level(t).logsnr, (t,), (jnp.ones_like(t),))[1]


def checked(schedule: Schedule) -> Schedule:
    """The schedule itself. Raises ValueError unless its logsnr falls strictly and its levels are numbers."""
    times = np.arange(1, 1001) / 1000 if schedule.steps is None else np.arange(1, schedule.steps + 1) / schedule.steps
    with jax.ensure_compile_time_eval():
        level = NoiseLevel(*map(np.asarray, schedule.level(times)))
    if not np.all((level.alpha >= 0) & (level.sigma > 0)):  # NaN fails as well
        worst = times[np.argmin((level.alpha >= 0) & (level.sigma > 0))]
        raise ValueError(f"schedule: at t = {worst:.4g} the level is no number or negative; give alpha >= 0, sigma > 0")
    logsnr = np.asarray(level.logsnr)
    bad = np.flatnonzero(~(np.diff(logsnr) < 0))
    if len(bad):
        i = bad[0]
        raise ValueError(
            f"schedule: logsnr goes from {logsnr[i]:.4g} at t = {times[i]:.4g} to {logsnr[i + 1]:.4g} at "
            f"t = {times[i + 1]:.4g}; it must fall strictly"
        )
    return schedule


def inverse(logsnr_at: Callable[[Array], Array], logsnr: Array, iterations: int = 60) -> Array:
    """The t in [0, 1] at which a falling logsnr_at(t) has this value, by bisection; the nearer end outside."""

    def halve(_, ends):
        low, high = ends
        middle = (low + high) / 2
        noisier = logsnr_at(middle) > logsnr  # than the middle is what we look for
        return jnp.where(noisier, middle, low), jnp.where(noisier, high, middle)

    zeros = jnp.zeros_like(logsnr)
    low, high = jax.lax.fori_loop(0, iterations, halve, (zeros, zeros + 1))
    return (low + high) / 2


def floating(t: Array) -> Array:
    return jnp.asarray(t, jnp.result_type(float, t))
