"""The diffusion family: schedule, prediction, loss and times of a config, and sampling step by step."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from calls import choose, construct, named, parse_call
from diffusion import losses, prediction
from diffusion.schedules import COMPOSED, LEARNED, SCHEDULES, Schedule, checked
from diffusion.times import TIMES, Times
from diffusion.uncertainty import init_uncertainty, log_variance
from edits import build_edits
from families.family import Family, Parts, build_model, prepared
from models import MODELS
from plans import build_sample, network_calls, plan_of, settings_of
from students import method_of
from training import flash, sharding
from training.objective import Diffusion, diffusion_objective, validation_losses


def build(parts: Parts) -> Family:
    """Raises ValueError for what cannot be, in one line."""
    config, task = parts.config, parts.task
    mathematics = build_mathematics(config)
    module = build_network(parts)
    init_network = functools.partial(initialised, module, parts)
    gathering = functools.partial(sharding.gathering, parts.mesh, again=config.model.remat == "none")
    apply = gathering(applied(module))
    # Likelihoods and some edits want derivatives along a direction (jvp), which kernels of attention have not.
    differentiable = gathering(applied(module.clone(attend=jax.nn.dot_product_attention)))
    of, schedule = mathematics.of, mathematics.initial.schedule
    times = build_times(config, schedule)
    strata = config.train.batch_size if config.diffusion.stratified else 0
    method = method_of(config, apply, task, mathematics.initial)
    asked = {"losses_of": method.losses_of, "sees": method.sees} if method else {}

    def init(key):
        return init_network(key) | mathematics.init(jax.random.fold_in(key, LEARNED_PARTS))

    def denoiser(apply, params, frozen, cond):
        now = of(params)
        return prediction.denoiser(functools.partial(apply, params), cond, now.schedule, now.parameterisation)

    sampling, smooth = functools.partial(denoiser, apply), functools.partial(denoiser, differentiable)

    def calls(settings):
        plan_of(config, settings, schedule)
        return network_calls(settings, schedule)

    calls(settings_of(config))
    edits = build_edits(config, task, parts.task_at, of, schedule, smooth, parts.whole)
    return Family(
        init=init,
        objective=diffusion_objective(apply, task, of, times, strata, **asked),
        validation=validation_losses(apply, task, of, times, config.evaluation.validation_draws),
        sample=build_sample(config, task, of, sampling, parts.whole),
        calls=calls,
        schedule=lambda params: of(params).schedule,
        denoiser=smooth,
        edits=None if config.latent.encoder else edits,
        project=getattr(module, "project", lambda params: params),
    )


class Mathematics(NamedTuple):
    """The diffusion of a config, some of which may be learned."""

    of: Callable[[Any], Diffusion]  # params -> Diffusion
    init: Callable[[jax.Array], dict]  # key -> the parameters of its learned parts, beside the network's
    initial: Diffusion  # before training


def build_mathematics(config) -> Mathematics:
    section = config.diffusion
    schedule_of, init_schedule = build_schedule(section)
    call = parse_call(section.prediction, "diffusion.prediction")
    unlearned = schedule_of(init_schedule(jax.random.key(0)))
    parameterisation = construct(prediction.PARAMETERISATIONS, call, "diffusion.prediction", unlearned)
    weighting = named(losses.WEIGHTINGS, section.weighting, "diffusion.weighting")
    loss_call = parse_call(section.loss, "diffusion.loss")
    sees_level = init_schedule is not no_parameters and call.name in prediction.LINES

    def init(key):
        more = {"uncertainty": init_uncertainty(key)} if section.uncertainty else {}
        return init_schedule(key) | more

    def of(params):
        schedule, what = schedule_of(params), parameterisation
        if sees_level:
            what = what._replace(noise_input=prediction.range_input(schedule))
        loss = construct(losses.LOSSES, loss_call, "diffusion.loss", schedule, what, weighting)
        if section.uncertainty:
            loss = losses.uncertain(loss, lambda t: log_variance(params["uncertainty"], schedule.level(t).logsnr))
        return Diffusion(schedule, what, weighting, loss, losses.weighted(schedule, what, weighting))

    return Mathematics(of, init, of(init(jax.random.key(0))))


def build_schedule(section) -> tuple[Callable[[Any], Schedule], Callable[[jax.Array], dict]]:
    """(params -> Schedule, key -> the parameters of a learned one)."""
    call, fixed = parse_call(section.schedule, "diffusion.schedule"), SCHEDULES | COMPOSED
    choose(fixed | LEARNED, call.name, "diffusion.schedule")
    if call.name not in LEARNED:
        schedule = checked(construct(fixed, call, "diffusion.schedule"))
        return lambda params: schedule, no_parameters
    if section.loss != "vdm" or section.uncertainty:
        raise ValueError(
            f"diffusion.schedule={call.name} is learned, which takes diffusion.loss=vdm without uncertainty; "
            f"got {section.loss}, uncertainty={section.uncertainty}"
        )
    learned = construct(LEARNED, call, "diffusion.schedule")
    return lambda params: learned.schedule(params["schedule"]), lambda key: {"schedule": learned.init(key)}


def no_parameters(key) -> dict:
    return {}


def build_times(config, schedule: Schedule) -> Times:
    call = parse_call(config.diffusion.times, "diffusion.times")
    if call.name != "importance":
        return construct(TIMES, call, "diffusion.times")
    if schedule.steps is None:
        raise ValueError("diffusion.times=importance needs a discrete schedule, and this one is continuous")
    return construct(TIMES, call, "diffusion.times", levels=schedule.steps)


def build_network(parts: Parts):
    """The module of config.model."""
    height, _, channels = parts.task.sample_shape
    encoder = parts.text
    learned = parse_call(parts.config.diffusion.loss, "diffusion.loss").name in losses.LEARNS_VARIANCE
    sizes = dict(
        size=height,
        out_channels=channels * (2 if learned else 1),
        num_labels=parts.task.labels,
        **({"text_encoder": encoder.module} if encoder and encoder.module else {}),
    )
    if parts.config.model.flash:
        if parts.config.model.dtype != "bfloat16":
            raise ValueError("model.flash=True works in half precision: set model.dtype=bfloat16")
        sizes["attend"] = flash.attention(parts.mesh)
    try:
        return build_model(parts.config, MODELS, **sizes)
    except ValueError as error:
        if not parts.config.latent.encoder:
            raise
        made = f"latent.encoder={parts.config.latent.encoder} makes latents of {tuple(parts.task.sample_shape)}"
        raise ValueError(f"{made}, which the network does not fit: {error}") from error


def applied(module) -> Callable:
    """apply(params, x, noise_input, cond, dropout_key=None) -> out."""

    def apply(params, x, noise_input, cond, dropout_key=None):
        train, rngs = dropout_key is not None, {"dropout": dropout_key}
        return module.apply({"params": params}, x, noise_input, cond, train=train, rngs=rngs if train else None)

    return apply


def initialised(module, parts: Parts, key):
    """The network's first parameters."""
    x0, cond = prepared(parts)
    return module.init({"params": key}, x0, jnp.zeros((1,)), cond)["params"]


# Folded into the parameters' key: the initial values of what is learned beside the network.
LEARNED_PARTS = 2**32 - 5
