"""Few steps out of many: what a student is to say, given what its teacher says.

Progressive distillation (Salimans and Ho 2022, arXiv 2202.00512): one step of the student is two of the teacher's.
Consistency models (Song et al. 2023, 2303.01469; Song and Dhariwal 2023, 2310.14189): all points of a path that the
probability-flow ODE walks are mapped to its end.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.gaussian import NoiseLevel, Prediction, corrupt
from diffusion.prediction import Denoise
from diffusion.schedules import Schedule, clean_at_zero

SIGMA_MIN = 0.002  # sigma / alpha of what a consistency model takes for data
SMALLEST = 0.00054  # of the pseudo-Huber distance, a root of the number of pixels


def landed(guess: Prediction, level: NoiseLevel) -> Array:
    """Where DDIM (eta = 0) leads from a prediction: alpha x0 + sigma eps at the cleaner level."""
    return corrupt(guess.x0, guess.eps, level)


# Salimans and Ho 2022, algorithm 2
def progressive_target(teacher: Denoise, schedule: Schedule, x: Array, t: Array, middle: Array, s: Array) -> Prediction:
    """The prediction at x, t from which one DDIM step to s arrives where the teacher does with a stop in between.

    t > middle > s, each [] or [b 1 1 1]. Its x0 is a mean of the teacher's two, weighted by the
    rise of alpha / sigma in each step.
    """
    level = clean_at_zero(schedule).level
    noisy, clean = level(t), level(s)

    def step(x: Array, ends: tuple[Array, Array]) -> tuple[Array, None]:
        return landed(teacher(x, ends[0]), level(ends[1])), None

    arrived, _ = jax.lax.scan(step, x, (jnp.stack([t, middle]), jnp.stack([middle, s])))  # the teacher compiles once
    share = clean.sigma / noisy.sigma
    x0 = (arrived - share * x) / (clean.alpha - share * noisy.alpha)
    return Prediction(x0, (x - noisy.alpha * x0) / noisy.sigma)


# Song et al. 2023 eq. (5); the skip is that of Kim et al. 2023 (CTM), with s = sigma_min
def consistency(denoise: Denoise, schedule: Schedule, sigma_min: Array = SIGMA_MIN) -> Callable[[Array, Array], Array]:
    """(x, t) -> x0, whatever the network's kind of output, and x / alpha itself where sigma / alpha <= sigma_min.

    With y = x / alpha and r = sigma / alpha it is (sigma_min / r) y + (1 - sigma_min / r) x0: one DDIM step to
    sigma_min. Of EDM's network c_out is the paper's, and c_skip differs from it by less than sigma_min.
    """

    def to_data(x: Array, t: Array) -> Array:
        level = schedule.level(t)
        on_x = jnp.minimum(1 / level.alpha, sigma_min / level.sigma)
        return on_x * x + (1 - on_x * level.alpha) * denoise(x, t).x0

    return to_data


# Karras et al. 2022 (EDM) eq. (5), as the levels of Song et al. 2023 section 3
def neighbours(
    schedule: Schedule, t: Array, intervals: Array, sigma_min: Array = SIGMA_MIN, rho: float = 7.0
) -> tuple[Array, Array]:
    """(noisier, cleaner) end of that of the intervals which t lies in; both shaped like t.

    The ends have (sigma / alpha)^(1 / rho) equally spaced from sigma_min to the schedule's most; `intervals` may be
    traced.
    """
    low, high = sigma_min ** (1 / rho), schedule.level(jnp.ones((), t.dtype)).ratio ** (1 / rho)
    place = intervals * (schedule.level(t).ratio ** (1 / rho) - low) / (high - low)
    k = jnp.clip(jnp.ceil(place), 1, intervals)

    def time(k: Array) -> Array:
        return schedule.time(-2 * rho * jnp.log(low + k / intervals * (high - low)))

    return time(k), time(k - 1)


def interval(times: Array, t: Array) -> tuple[Array, Array, Array]:
    """(t, middle, s) of the student's interval that t lies in; times [2 n + 1] are its teacher's, from 1 down to 0."""
    ends = times[::2][::-1]
    k = jnp.clip(jnp.searchsorted(ends, t), 1, len(ends) - 1)
    return ends[k], times[1::2][::-1][k - 1], ends[k - 1]


# Karras et al. 2022 algorithm 1, as in samplers/heun.py, at a time for each example
def heun_step(denoise: Denoise, schedule: Schedule, x: Array, t: Array, s: Array) -> Array:
    """From t to s > 0 along the probability-flow ODE, in second order: two calls."""
    noisy, clean, guess = schedule.level(t), schedule.level(s), denoise(x, t)
    euler = landed(guess, clean)
    return euler + clean.alpha * (clean.ratio - noisy.ratio) * (denoise(euler, s).eps - guess.eps) / 2


# Song and Dhariwal 2023 section 3.3
def pseudo_huber(a: Array, b: Array) -> Array:
    """sqrt(|a - b|^2 + c^2) - c [b], the norm over all of an example's d numbers, and c = 0.00054 sqrt(d)."""
    axes = tuple(range(1, a.ndim))
    c = SMALLEST * (a.size / len(a)) ** 0.5
    return jnp.sqrt(jnp.sum((a - b) ** 2, axes) + c**2) - c


# Song and Dhariwal 2023 section 3.4
def doubled(step: Array, first: int, last: int, every: int) -> Array:
    """How many intervals at a step: `first`, twice as many after each `every` steps, `last` at most."""
    return jnp.minimum(first * 2.0 ** (step // every), last)
