"""What a student is asked, on the trainer that asks every network to say what was drawn: METHODS, by name.

Each is a builder (Setting, **arguments) -> Method. The teacher's parameters are frozen['teacher'], for the student's
own network and mathematics.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import distillation
from diffusion.gaussian import corrupt
from diffusion.grids import trailing
from diffusion.guidance import Guidance, guide_pairs, paired
from diffusion.prediction import Denoise, denoiser, determinant
from training import ema
from training.objective import Apply, Diffusion, Drawn, LossesOf, losses_at
from training.state import TrainState
from training.tasks import Task


class Setting(NamedTuple):
    """What a method is built with. diffusion is that before training: a learned schedule is not distilled."""

    apply: Apply
    task: Task
    diffusion: Diffusion
    averages: tuple[float, ...]  # decays of those that are kept


class Method(NamedTuple):
    """losses_of and sees as objective.py and step.py take them."""

    losses_of: LossesOf
    sees: Callable[[TrainState], dict] = lambda state: {}
    taught: bool = True  # by a teacher


def bound(setting: Setting, params, cond, dropout_key=None) -> Denoise:
    network = partial(setting.apply, params, dropout_key=dropout_key)
    return denoiser(network, cond, setting.diffusion.schedule, setting.diffusion.parameterisation)


def teacher_of(setting: Setting, frozen, cond, guidance: float | None) -> Denoise:
    """The frozen teacher's prediction, with classifier-free guidance where it is given."""
    if guidance is None:
        return bound(setting, frozen["teacher"], cond)
    pairs = bound(setting, frozen["teacher"], paired(cond, setting.task.null(cond)))
    return guide_pairs(pairs, setting.diffusion.schedule, Guidance(guidance))


# Salimans and Ho 2022, algorithm 2
def progressive(setting: Setting, *, steps: int, guidance: float | None = None) -> Method:
    """One DDIM step of the student, of `steps` equal ones, is two of the teacher's.

    What was drawn is replaced by what the teacher makes of it; parameterisation, loss and weighting stay the config's.
    Raises ValueError where steps is no power of 2.
    """
    if type(steps) is not int or steps < 1 or steps & (steps - 1):
        raise ValueError(f"steps: got {steps}; stages halve them to 1, so give a power of 2")
    check_regular(setting.diffusion)
    schedule = setting.diffusion.schedule
    times = np.asarray(trailing(schedule, 2 * steps), np.float32)

    def losses_of(params, frozen, memory, drawn: Drawn, dropout_key):
        x0, cond, t, eps = drawn
        t, middle, s = distillation.interval(jnp.asarray(times), t)
        x = corrupt(x0, eps, schedule.level(t))
        teacher = teacher_of(setting, frozen, cond, guidance)
        aim = jax.lax.stop_gradient(distillation.progressive_target(teacher, schedule, x, t, middle, s))
        losses = losses_at(setting.apply, setting.diffusion, params, aim.x0, cond, t, aim.eps, dropout_key)
        return *losses, t

    return Method(losses_of)


# Song et al. 2023, algorithm 2, with the distance of Song and Dhariwal 2023
def consistency(
    setting: Setting,
    *,
    intervals: int = 18,
    sigma_min: float = distillation.SIGMA_MIN,
    target: float = 0.0,
    guidance: float | None = None,
) -> Method:
    """The student says at both ends of a step of its teacher's ODE (Heun's) the same x0.

    intervals: of the levels from sigma_min up. At the cleaner end the average of decay `target`, one of ema.decays,
    says it; 0: the student itself. Raises ValueError without such an average, or such levels in the schedule.
    """
    check_levels(setting.diffusion, intervals, sigma_min)
    if target and target not in setting.averages:
        raise ValueError(f"target: got {target}, an average that is not kept; give 0.0 or one of {setting.averages}")
    schedule = setting.diffusion.schedule

    def losses_of(params, frozen, memory, drawn: Drawn, dropout_key):
        x0, cond, t, eps = drawn
        t, s = distillation.neighbours(schedule, t, intervals, sigma_min)
        x = corrupt(x0, eps, schedule.level(t))
        cleaner = distillation.heun_step(teacher_of(setting, frozen, cond, guidance), schedule, x, t, s)
        return agreement(setting, params, memory["target"], cond, (x, t), (cleaner, s), sigma_min, dropout_key), None, t

    return Method(losses_of, lambda state: {"target": state.ema[ema.name(target)] if target else state.params})


# Song et al. 2023, algorithm 3, as Song and Dhariwal 2023 have it
def consistency_training(
    setting: Setting,
    *,
    first: int = 10,
    last: int = 1280,
    every: int = 10_000,
    sigma_min: float = distillation.SIGMA_MIN,
) -> Method:
    """Without a teacher: both ends are the same image with the same noise, and the loss is over their distance.

    `first` intervals of the levels, twice as many after each `every` steps, `last` at most. The paper's times are
    diffusion.times='log_normal(mean=-1.1, std=2.0)'. Raises ValueError where the schedule has no such levels.
    """
    for intervals in (first, last):
        check_levels(setting.diffusion, intervals, sigma_min)
    if not (first <= last and every >= 1):
        raise ValueError(f"first: got {first} with last {last}, every {every}; give first <= last, every 1 or more")
    schedule = setting.diffusion.schedule

    def losses_of(params, frozen, memory, drawn: Drawn, dropout_key):
        x0, cond, t, eps = drawn
        intervals = distillation.doubled(memory["step"], first, last, every)
        t, s = distillation.neighbours(schedule, t, intervals, sigma_min)
        x, cleaner = (corrupt(x0, eps, schedule.level(end)) for end in (t, s))
        apart = jnp.ravel(schedule.level(t).ratio - schedule.level(s).ratio)
        losses = agreement(setting, params, params, cond, (x, t), (cleaner, s), sigma_min, dropout_key)
        return losses / apart, None, t

    return Method(losses_of, lambda state: {"step": state.step}, taught=False)


def agreement(setting: Setting, params, told, cond, noisier, cleaner, sigma_min: float, dropout_key):
    """[b] distances of what `params` say at one end (x, t) from what `told` say at the other; no gradient to these."""

    def x0_of(params, end):
        denoise = bound(setting, params, cond, dropout_key)
        return distillation.consistency(denoise, setting.diffusion.schedule, sigma_min)(*end)

    return distillation.pseudo_huber(x0_of(params, noisier), jax.lax.stop_gradient(x0_of(told, cleaner)))


MOST = 10.0  # times that a network's error may stand in x0 at t = 1


def check_regular(diffusion: Diffusion) -> None:
    """Raises ValueError for outputs of which x0 at t = 1 is a small difference: one step from there is all x0."""
    level = diffusion.schedule.level(np.float32(1))
    error = float(level.sigma / abs(determinant(diffusion.parameterisation.line, level)))
    if not error < MOST:
        raise ValueError(
            f"an error of this diffusion.prediction stands {error:.3g} times in x0 at t = 1, where few steps begin; "
            "teach with v, x0, flow or edm"
        )


def check_levels(diffusion: Diffusion, intervals: int, sigma_min: float) -> None:
    """Raises ValueError where the schedule cannot be cut into so many intervals from sigma_min up."""
    if type(intervals) is not int or intervals < 2:
        raise ValueError(f"intervals: got {intervals}; give a whole number, 2 or more")
    schedule = diffusion.schedule
    least, most = (float(schedule.level(np.float32(end)).ratio) for end in (0, 1))
    if schedule.steps or not most < np.inf:
        raise ValueError("a consistency model needs a continuous schedule with alpha(1) > 0, as edm or cosine")
    if not least <= sigma_min < most:
        raise ValueError(
            f"sigma_min: got {sigma_min}; the schedule's sigma / alpha goes from {least:.3g} to {most:.3g}"
        )
    check_regular(diffusion)


METHODS: dict[str, Callable[..., Method]] = {
    "progressive": progressive,
    "consistency": consistency,
    "consistency_training": consistency_training,
}
