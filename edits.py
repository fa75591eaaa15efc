"""Editing as it is asked for -> compiled programs: what is known of an image, or where sampling starts."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from calls import Call, construct, parse_call
from diffusion import sampling
from diffusion.editing import METHODS, OPERATORS, Method, Operator, start, tiles
from diffusion.samplers import SAMPLERS
from diffusion.samplers.ddim import invert
from diffusion.schedules import Schedule
from plans import Plan, Settings, grid_of, guided, limited, plan_of, told
from training.objective import Diffusion
from training.tasks import Task


class Edit(NamedTuple):
    """What is done beside sampling, in the words of the command line.

    method holds the sampler to what the operator sees of an image, '' for nothing known. strength is the time at
    which sampling starts from a given image or noise.
    """

    method: str = ""
    operator: str = "masked"
    strength: float = 1.0


class Edits(NamedTuple):
    """Programs of an experiment. Each compiles once for a Plan, an Edit's names and a batch's shape.

    given is what a sample is given. held, arrays [b ..]: 'image' [b h w c] in [-1, 1] to start from at `strength`, or
    'noise' to start from as it is; 'known', what the operator sees of an image, and 'mask' [b h w 1], 1 where it is
    known, for the operator 'masked'.
    """

    draw: Callable  # (params, frozen, seeds [b], given, held, Settings, Edit) -> images [b h w c] in [-1, 1]
    film: Callable  # the same -> (x_t [b steps + 1 h w c], its x0 predictions [b steps h w c])
    invert: Callable  # (params, frozen, seeds, given, images, Settings, Edit) -> noise at t = strength
    enlarge: Callable  # (params, frozen, seeds, given, Settings, overlap) -> images of any size, by super-resolution
    times: Callable  # (Settings, Edit) -> the grid
    calls: Callable  # (Settings, Edit) -> (network calls, derivatives of the network beside each)
    schedule: Callable  # params -> Schedule


class Fixed(NamedTuple):
    """The part of an Edit that is fixed in a program."""

    method: Call | None
    operator: Call


def fixed_of(edit: Edit, schedule: Schedule) -> tuple[Fixed, dict]:
    """Edit -> (what is fixed in the program, the numbers that are traced). Names and values are checked here."""
    operator = parse_call(edit.operator, "operator")
    if operator.name != "masked":
        construct(OPERATORS, operator, "operator")
    if not edit.method:
        return Fixed(None, operator), {}
    method = parse_call(edit.method, "method")
    construct(METHODS, method, "method", schedule, None, None)
    method, numbers = method.split()
    return Fixed(method, operator), numbers


def method_of(fixed: Fixed, numbers: dict, schedule: Schedule, held: dict) -> Method:
    if fixed.method is None:
        return Method()
    call, operator = fixed.method, operator_of(fixed.operator, held)
    return construct(METHODS, call, "method", schedule, operator, held.get("known"), **numbers)


def operator_of(call: Call, held: dict) -> Operator:
    return construct(OPERATORS, call, "operator", *([held.get("mask")] if call.name == "masked" else []))


def first_x(task: Task, keys: Array, schedule: Schedule, t: Array, held: dict) -> Array:
    """What sampling starts from: noise that is given, an image made noisy, or the prior."""
    if "noise" in held:
        return held["noise"]
    if "image" in held:
        return start.noisy(keys, held["image"], schedule, t)
    return sampling.prior(keys, task.sample_shape, schedule, t)


def build_edits(
    config,
    task: Task,
    task_at: Callable[[tuple[int, int]], Task],
    diffusion_of: Callable[[Any], Diffusion],
    initial: Schedule,
    denoiser: Callable,
    layout,
) -> Edits:
    """The programs, which raise ValueError before they compile.

    task_at((height, width)): the task at another size. layout: the sharding of what they return, whole on every
    process that is to read it.
    """
    program = functools.partial(jax.jit, out_shardings=layout)

    @functools.partial(program, static_argnames=("plan", "fixed", "film"))
    def walk(params, frozen, seeds, given, held, times, numbers, plan: Plan, fixed: Fixed, film: bool):
        keys, cond = told(config, task, frozen, seeds, given, numbers)
        schedule = diffusion_of(params).schedule
        method = method_of(fixed, numbers["method"], schedule, held)
        denoise = method.guide(guided(config, task, denoiser, params, frozen, cond, schedule, numbers))
        denoise = method.limit(limited(plan, denoise, schedule, numbers))
        sampler = method.sampler(construct(SAMPLERS, plan.sampler, "sampler", schedule, **numbers["sampler"]))
        x = first_x(task, keys, schedule, times[0], held)
        if not film:
            return task.restore(frozen, sampling.sample(keys, denoise, sampler, times, x))
        path = sampling.trajectory(keys, denoise, sampler, times, x)
        guesses = jax.lax.map(lambda at: denoise(*at).x0, (path[:-1], times[:-1]))
        return path.swapaxes(0, 1), guesses.swapaxes(0, 1)

    @functools.partial(program, static_argnames="plan")
    def inverted(params, frozen, seeds, given, images, times, numbers, plan: Plan):
        schedule = diffusion_of(params).schedule
        _, cond = told(config, task, frozen, seeds, given, numbers)
        denoise = guided(config, task, denoiser, params, frozen, cond, schedule, numbers)
        return invert(limited(plan, denoise, schedule, numbers), schedule, times, images)

    @functools.partial(program, static_argnames=("plan", "overlap"))
    def enlarged(params, frozen, seeds, given, times, numbers, plan: Plan, overlap: int):
        sides, factor = task.sample_shape[:2], task.sample_shape[0] // config.task.low_size
        whole = task_at(tuple(factor * side for side in given["low_res"].shape[1:3]))
        keys, cond = told(config, whole, frozen, seeds, given, numbers)
        schedule = diffusion_of(params).schedule
        size = whole.sample_shape[:2]
        # of smaller pixels first, so that a tile begins where one of them does
        places = (
            factor * tiles.corners(of // factor, side // factor, overlap) for of, side in zip(size, sides, strict=True)
        )

        def denoise_at(corner: Array):
            here = cond | {"low_res": tiles.cut(cond["low_res"], corner, sides)}
            return guided(config, whole, denoiser, params, frozen, here, schedule, numbers)

        denoise = limited(plan, tiles.tiled(denoise_at, *places, sides), schedule, numbers)
        sampler = construct(SAMPLERS, plan.sampler, "sampler", schedule, **numbers["sampler"])
        x = sampling.prior(keys, whole.sample_shape, schedule, times[0])
        return task.restore(frozen, sampling.sample(keys, denoise, sampler, times, x))

    def times_of(settings: Settings, edit: Edit, schedule: Schedule = initial) -> np.ndarray:
        method = method_of(*fixed_of(edit, schedule), schedule, {})
        times = start.below(schedule, grid_of(settings, schedule), edit.strength)
        return method.grid(times).astype(np.float32)

    def run(params, frozen, seeds, given, held, settings: Settings, edit: Edit, film: bool):
        schedule = diffusion_of(params).schedule
        plan, numbers = plan_of(config, settings, schedule)
        fixed, numbers["method"] = fixed_of(edit, schedule)
        times = times_of(settings, edit, schedule)
        return walk(params, frozen, seeds, given, held, times, numbers, plan=plan, fixed=fixed, film=film)

    def invert_images(params, frozen, seeds, given, images, settings: Settings, edit: Edit):
        schedule = diffusion_of(params).schedule
        plan, numbers = plan_of(config, settings, schedule)
        return inverted(params, frozen, seeds, given, images, times_of(settings, edit, schedule), numbers, plan=plan)

    def enlarge(params, frozen, seeds, given, settings: Settings, overlap: int):
        schedule = diffusion_of(params).schedule
        plan, numbers = plan_of(config, settings, schedule)
        times = grid_of(settings, schedule).astype(np.float32)
        return enlarged(params, frozen, seeds, given, times, numbers, plan=plan, overlap=overlap)

    def calls(settings: Settings, edit: Edit) -> tuple[int, int]:
        plan, numbers = plan_of(config, settings, initial)
        method = method_of(*fixed_of(edit, initial), initial, {})
        sampler = construct(SAMPLERS, plan.sampler, "sampler", initial, **numbers["sampler"])
        return method.sampler(sampler).calls(times_of(settings, edit)), method.derivatives

    return Edits(
        draw=functools.partial(run, film=False),
        film=functools.partial(run, film=True),
        invert=invert_images,
        enlarge=enlarge,
        times=times_of,
        calls=calls,
        schedule=lambda params: diffusion_of(params).schedule,
    )
