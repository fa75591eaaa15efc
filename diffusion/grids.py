"""The grids that sampling walks: (schedule, steps) -> times [steps + 1], from the noisiest down to data at 0.

All but those named after a paper's code start at t = 1 and fall strictly. On a table they keep to its levels.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.schedules import Schedule, last_time


def trailing(schedule: Schedule, steps: int) -> np.ndarray:
    """steps equal intervals from t = 1, rounded to a table's levels. The default: all the noise is seen."""
    return _on_levels(schedule, np.linspace(1, 0, _limit(schedule, steps) + 1)[:-1])


def uniform(schedule: Schedule, steps: int) -> np.ndarray:
    """steps times from 1 to the last one before data, both of them taken, then data (iDDPM's respacing)."""
    return _on_levels(schedule, np.linspace(1, last_time(schedule), _limit(schedule, steps)))


def quadratic(schedule: Schedule, steps: int) -> np.ndarray:
    """As uniform, with the square root of time equally spaced: closer steps near data."""
    return _on_levels(schedule, np.linspace(1, last_time(schedule) ** 0.5, _limit(schedule, steps)) ** 2)


# Karras et al. 2022 (EDM) eq. (5)
def karras(
    schedule: Schedule, steps: int, rho: float = 7.0, sigma_min: float = 0.002, sigma_max: float | None = None
) -> np.ndarray:
    """steps levels with (sigma / alpha)^(1 / rho) equally spaced, then data.

    sigma_max is the schedule's own at t = 1 unless given, and sigma_min at least its last before data. Raises
    ValueError where sigma_max is infinite, as where alpha(1) = 0.
    """
    if not rho > 0:
        raise ValueError(f"rho: got {rho}; give a positive number")
    last, first = _reach(schedule)
    low, high = max(last, sigma_min), min(first, first if sigma_max is None else sigma_max)
    if not 0 < low < high < np.inf:
        raise ValueError(f"sigma_max: got {high:.4g} with sigma_min {low:.4g}; karras needs 0 < min < max < inf")
    sigmas = np.linspace(high ** (1 / rho), low ** (1 / rho), _limit(schedule, steps)) ** rho
    times = _times_of(schedule, sigmas)
    return _on_levels(schedule, np.append(1.0, times[1:]) if high == first else times)


# Lu et al. 2022 (DPM-Solver) section 3.4
def logsnr(schedule: Schedule, steps: int) -> np.ndarray:
    """steps levels with logsnr equally spaced from t = 1 to the last time before data, then data.

    Where alpha(1) = 0 the spacing begins one thousandth of time later, after a first step from t = 1.
    """
    low, high = _reach(schedule)
    if np.isinf(high):
        rest = np.geomspace(_ratio(schedule, 0.999), low, _limit(schedule, steps) - 1)
    else:
        rest = np.geomspace(high, low, _limit(schedule, steps))[1:]
    return _on_levels(schedule, np.append(1.0, _times_of(schedule, rest)))


# As in the code of latent diffusion and diffusers
def leading(schedule: Schedule, steps: int, offset: int = 0) -> np.ndarray:
    """A table's indices offset, offset + T // steps, ..: it never sees t = 1, as the models that used it."""
    _limit(schedule, steps, table="leading")
    indices = np.arange(steps) * (schedule.steps // steps)
    most = schedule.steps - 1 - indices[-1]
    if type(offset) is not int or not 0 <= offset <= most:
        raise ValueError(f"offset: got {offset}; with {steps} steps of {schedule.steps} levels give 0 to {most}")
    return _from_indices(indices + offset, schedule.steps)


# DDIM appendix D.2, as its code has it
def ddim_uniform(schedule: Schedule, steps: int) -> np.ndarray:
    """DDIM's 'linear' sub-sequence, indices 0, T/S, 2T/S ..: it starts at 900 of 1000 for S = 10.

    Raises ValueError where steps does not divide T: the paper's code then takes another number.
    """
    _limit(schedule, steps, table="ddim_uniform")
    if schedule.steps % steps:
        raise ValueError(f"steps: got {steps}; ddim_uniform takes a divisor of {schedule.steps}, trailing any number")
    return leading(schedule, steps)


# DDIM appendix D.2, as its code has it
def ddim_quadratic(schedule: Schedule, steps: int) -> np.ndarray:
    """DDIM's 'quadratic' sub-sequence, used on CIFAR-10: it starts at index 0.8 T.

    From sqrt(0.8 T) steps on it repeats its first indices, as the paper's runs did; a step between
    equal times changes nothing.
    """
    _limit(schedule, steps, table="ddim_quadratic")
    indices = np.floor(np.linspace(0, np.sqrt(0.8 * schedule.steps), steps) ** 2)
    return _from_indices(indices, schedule.steps)


def given(schedule: Schedule, steps: int, times: tuple = (), sigmas: tuple = ()) -> np.ndarray:
    """The times listed, the last of them 0; or the levels sigma / alpha listed, to which data is added.

    Raises ValueError unless they fall strictly, make `steps` steps, and end at data.
    """
    if bool(times) == bool(sigmas) or sigmas and not min(sigmas) > 0:
        raise ValueError("grid: given takes either times=(1.0, .., 0.0) or sigmas=(80.0, .., 0.002), positive")
    grid = np.asarray(times, np.float64) if times else np.append(_times_of(schedule, np.asarray(sigmas, np.float64)), 0)
    if grid[-1] != 0:
        raise ValueError(f"grid: the times given end at t = {grid[-1]:.4g}; they must end at data, t = 0")
    if grid[0] > 1 or not np.all(np.diff(grid) < 0):
        raise ValueError("grid: the times given must fall strictly, from 1 at most to 0")
    if len(grid) != steps + 1:
        raise ValueError(f"steps: got {steps}, and the times given make {len(grid) - 1} steps; make them equal")
    return _on_levels(schedule, grid[:-1])


def _from_indices(indices: np.ndarray, levels: int) -> np.ndarray:
    """A table's indices 0 .. T - 1, ascending, to times that end at data."""
    return np.append((indices[::-1] + 1) / levels, 0.0)


def _on_levels(schedule: Schedule, times: np.ndarray) -> np.ndarray:
    """Falling times before data, moved to distinct levels of a table, or to distinct float32 times; data is added."""
    i = np.arange(len(times))
    if schedule.steps is None:
        gap = 2.0**-23  # near t = 1 levels may lie closer than float32 can tell
        close = len(times) > 1 and np.max(np.diff(times)) > -gap
        return np.append(np.minimum.accumulate(times + i * gap) - i * gap if close else times, 0.0)
    k = np.maximum(np.rint(times * schedule.steps), len(times) - i)  # as many levels below it as times are left
    k = np.minimum.accumulate(k + i) - i
    return np.append(k / schedule.steps, 0.0)


def _reach(schedule: Schedule) -> tuple[float, float]:
    return _ratio(schedule, last_time(schedule)), _ratio(schedule, 1.0)


def _ratio(schedule: Schedule, t: float) -> float:
    with jax.ensure_compile_time_eval():
        alpha, sigma = map(float, schedule.level(jnp.full((), t)))
    return sigma / alpha if alpha else np.inf


def _times_of(schedule: Schedule, sigmas: np.ndarray) -> np.ndarray:
    with jax.ensure_compile_time_eval():
        return np.asarray(schedule.time(-2 * np.log(sigmas)), np.float64)


def _limit(schedule: Schedule, steps: int, table: str | None = None) -> int:
    """steps itself. Raises ValueError where a table has fewer levels, or is needed and there is none."""
    if table and schedule.steps is None:
        raise ValueError(f"grid: {table} needs a discrete schedule, and this one is continuous; use trailing")
    if steps != int(steps) or not 1 <= steps <= (schedule.steps or np.inf):
        raise ValueError(f"steps: got {steps}; this schedule takes 1 to {schedule.steps or 'any number'}")
    return steps


GRIDS = {
    "trailing": trailing,
    "uniform": uniform,
    "leading": leading,
    "quadratic": quadratic,
    "karras": karras,
    "logsnr": logsnr,
    "given": given,
    "ddim_uniform": ddim_uniform,
    "ddim_quadratic": ddim_quadratic,
}
