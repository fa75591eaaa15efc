"""How to sample: config.sampling and the flags over it -> one compiled program and the numbers that it is fed."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calls import Call, construct, named, parse_call
from diffusion import guidance, losses, sampling
from diffusion.grids import GRIDS
from diffusion.prediction import Denoise
from diffusion.samplers import SAMPLERS
from diffusion.schedules import Schedule
from training.objective import Diffusion
from training.tasks import Task


class Settings(NamedTuple):
    """How to sample, in the words of config.sampling."""

    sampler: str
    steps: int
    grid: str
    guidance: float | None
    guidance_interval: tuple[float, ...]
    guidance_rescale: float
    threshold: str
    aug_level: float = 0.0


def settings_of(config) -> Settings:
    section = config.sampling
    return Settings(*(section[key] for key in Settings._fields))


class Plan(NamedTuple):
    """The part of Settings that is fixed in a program, beside the number of steps and what is absent."""

    sampler: Call
    threshold: Call | None


def plan_of(config, settings: Settings, schedule: Schedule) -> tuple[Plan, dict]:
    """Settings -> (what is fixed in the program, the numbers that are traced). Names and values are checked here."""
    check_guidance(config, settings)
    check_aug_level(config, settings.aug_level)
    if config.latent.encoder and settings.threshold != "none":
        raise ValueError(f"sampling.threshold={settings.threshold} is of pixels, and these are latents: set it to none")
    sampler = parse_call(settings.sampler, "sampling.sampler")
    learned = parse_call(config.diffusion.loss, "diffusion.loss").name in losses.LEARNS_VARIANCE
    if ("variance", "learned") in sampler.arguments and not learned:
        raise ValueError(
            f"sampling.sampler={settings.sampler!r} needs a learned variance: diffusion.loss=hybrid or variational"
        )
    construct(SAMPLERS, sampler, "sampling.sampler", schedule)
    sampler, sampler_numbers = sampler.split()
    threshold, threshold_numbers = None, {}
    if settings.threshold != "none":
        threshold = parse_call(settings.threshold, "sampling.threshold")
        construct(guidance.THRESHOLDS, threshold, "sampling.threshold", None, schedule)
        threshold, threshold_numbers = threshold.split()
    numbers = {
        "guidance": None if settings.guidance is None else float(settings.guidance),
        "interval": tuple(map(float, settings.guidance_interval)),
        "rescale": settings.guidance_rescale or None,
        "sampler": sampler_numbers,
        "threshold": threshold_numbers,
        "aug_level": float(settings.aug_level),
    }
    return Plan(sampler, threshold), numbers


def check_guidance(config, settings: Settings) -> None:
    scale, interval, rescale = settings.guidance, tuple(settings.guidance_interval), settings.guidance_rescale
    if scale is not None and not config.task.drop:
        raise ValueError(f"guidance {scale} needs a network trained with task.drop > 0; this one has 0")
    if scale is not None and not math.isfinite(scale):
        raise ValueError(f"guidance {scale} must be a finite number")
    if interval and not (len(interval) == 2 and 0 <= interval[0] < interval[1]):
        raise ValueError(f"sampling.guidance_interval={interval} must be (low, high) of sigma / alpha, or ()")
    if not 0 <= rescale <= 1:
        raise ValueError(f"sampling.guidance_rescale={rescale} must be a share in [0, 1]; 0 is none")


def check_aug_level(config, level: float) -> None:
    if not 0 <= level <= 1:
        raise ValueError(f"sampling.aug_level={level} must be in [0, 1]; 0 is none")
    if level and not config.task.low_size:
        raise ValueError(f"sampling.aug_level={level} is of super-resolution, and task.low_size is 0")


def grid_of(settings: Settings, schedule: Schedule) -> np.ndarray:
    return named(GRIDS, settings.grid, "sampling.grid", schedule, settings.steps)


def network_calls(settings: Settings, schedule: Schedule) -> int:
    """How often the network is called for a sample (NFE)."""
    times = grid_of(settings, schedule)
    return named(SAMPLERS, settings.sampler, "sampling.sampler", schedule).calls(times)


def guided(config, task: Task, denoiser, params, frozen, cond, schedule: Schedule, numbers: dict) -> Denoise:
    """The network's prediction under cond, guided where the numbers say how."""
    denoise = denoiser(params, frozen, cond)
    if numbers["guidance"] is None:
        return denoise
    pairs = denoiser(params, frozen, guidance.paired(cond, task.null(cond)))
    how = guidance.Guidance(numbers["guidance"], numbers["rescale"], config.sampling.guidance_channels)
    both = guidance.guide_pairs(pairs, schedule, how)
    return guidance.within(both, denoise, schedule, *numbers["interval"]) if numbers["interval"] else both


def limited(plan: Plan, denoise: Denoise, schedule: Schedule, numbers: dict) -> Denoise:
    if plan.threshold is None:
        return denoise
    return construct(guidance.THRESHOLDS, plan.threshold, "threshold", denoise, schedule, **numbers["threshold"])


def keys_of(seeds: jax.Array) -> jax.Array:
    """The key of each sample."""
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), SAMPLING))(seeds)


def told(config, task: Task, frozen, seeds: jax.Array, given: dict, numbers: dict) -> tuple[jax.Array, dict]:
    """(keys [b], cond): the randomness of each seed, and what the network is told of what a sample is given."""
    keys = keys_of(seeds)
    if config.task.low_size:  # the stages of a cascade share their seeds, not their noise
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, config.task.low_size)
    level = jnp.broadcast_to(numbers["aug_level"], seeds.shape)
    return keys, task.condition(frozen, keys, given | {"aug_level": level})


def build_sample(config, task: Task, diffusion_of: Callable[[Any], Diffusion], denoiser, layout) -> Callable:
    """-> sample(params, frozen, seeds, given, settings) -> images: one program for each Plan, whatever the numbers.

    layout: the sharding of the images, whole on every process that is to read them.
    """
    channels, most = config.sampling.guidance_channels, task.sample_shape[-1]
    if not 0 <= channels <= most:
        raise ValueError(f"sampling.guidance_channels={channels} must be 0, for all, or 1 to the {most} that there are")

    @functools.partial(jax.jit, static_argnames="plan", out_shardings=layout)
    def program(params, frozen, seeds, given, times, numbers, plan: Plan):
        keys, cond = told(config, task, frozen, seeds, given, numbers)
        schedule = diffusion_of(params).schedule
        denoise = guided(config, task, denoiser, params, frozen, cond, schedule, numbers)
        sampler = construct(SAMPLERS, plan.sampler, "sampler", schedule, **numbers["sampler"])
        x = sampling.prior(keys, task.sample_shape, schedule, times[0])
        x0 = sampling.sample(keys, limited(plan, denoise, schedule, numbers), sampler, times, x)
        return task.restore(frozen, x0)

    def sample(params, frozen, seeds, given, settings: Settings):
        schedule = diffusion_of(params).schedule
        plan, numbers = plan_of(config, settings, schedule)
        times = grid_of(settings, schedule).astype(np.float32)
        return program(params, frozen, seeds, given, times, numbers, plan=plan)

    return sample


# Folded into a key, so that what is drawn from it is not drawn elsewhere: by a training of the same seed.
SAMPLING = 2**32 - 4
