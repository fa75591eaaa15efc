"""config -> Experiment: the one place where names become objects. Below it nobody sees a config."""

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calls import Call, choose, construct, named, parse_call
from diffusion import guidance, losses, prediction, sampling
from diffusion.grids import GRIDS
from diffusion.samplers import SAMPLERS
from diffusion.schedules import COMPOSED, LEARNED, SCHEDULES, Schedule, checked
from diffusion.times import TIMES, Times
from diffusion.uncertainty import init_uncertainty, log_variance
from input_pipeline import DATASETS, Source, evaluation_batches, train_batches
from input_pipeline.batches import local_rows
from input_pipeline.source import some
from models import MODELS
from training import ema, optim, sharding
from training.objective import Diffusion, diffusion_objective, validation_losses
from training.state import TrainState, new_state
from training.step import Update, make_train_step
from training.tasks import TASKS, Task


class Experiment(NamedTuple):
    """All that the modes need of a config. Any family of generative models is one of these."""

    task: Task
    mesh: jax.sharding.Mesh
    source: Callable[[str], Source]  # split -> its images
    batches: Callable[[int], Iterator[dict]]  # step -> the training batches from there on, on the devices
    init: Callable[[], TrainState]  # jitted, laid out over the mesh
    abstract: TrainState  # shapes, types and shardings of the state
    train_step: Callable  # (state, frozen, batch) -> (state, sums)
    validation_loss: Callable  # (params, check) -> float
    denoiser: Callable  # (params, cond) -> Denoise
    sample: Callable  # (params, seeds [b], cond, Settings) -> images [b h w c] in [-1, 1]
    calls: Callable  # Settings -> network calls a sample; guidance makes each a double one


class Settings(NamedTuple):
    """How to sample, in the words of config.sampling."""

    sampler: str
    steps: int
    grid: str
    guidance: float | None
    guidance_interval: tuple[float, ...]
    guidance_rescale: float
    threshold: str


def build(config) -> Experiment:
    """Everything that can be refused without reading data or compiling is refused here, in one line."""
    mesh = sharding.data_mesh()
    check_numbers(config)
    task = build_task(config)
    diffusion = build_diffusion(config)
    apply, init_network = build_network(config, task)
    network_calls(settings_of(config), diffusion.initial.schedule)
    plan_of(config, settings_of(config), diffusion.initial.schedule)

    def init_params(key):
        return init_network(key) | diffusion.init(jax.random.fold_in(key, LEARNED_PARTS))

    averages = ema.rules(config.ema.decays, config.ema.warmup, config.ema.sigma_rels)
    update = Update(build_optimiser(config), averages)
    times = build_times(config, diffusion.initial.schedule)
    init = functools.partial(new_state, init_params, update.optimiser, tuple(averages), config.seed, times.init)
    whole = sharding.replicated(mesh)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), jax.eval_shape(init))
    strata = config.train.batch_size if config.diffusion.stratified else 0
    objective = diffusion_objective(apply, task, diffusion.of, times, strata)
    train_step = make_train_step(objective, update, config.optim.accumulate)
    held_out_losses = validation_losses(apply, task, diffusion.of, times, config.evaluation.validation_draws)
    source = build_source(config)

    def denoiser(params, cond):
        now = diffusion.of(params)
        return prediction.denoiser(functools.partial(apply, params), cond, now.schedule, now.parameterisation)

    return Experiment(
        task=task,
        mesh=mesh,
        source=source,
        batches=functools.partial(device_batches, config, source, mesh),
        init=jax.jit(init, out_shardings=whole, compiler_options=RUNS_ONCE.get(jax.default_backend())),
        abstract=abstract,
        train_step=jax.jit(train_step, donate_argnums=0, out_shardings=(whole, None)),
        validation_loss=build_validation(config, source, mesh, held_out_losses),
        denoiser=denoiser,
        sample=build_sample(config, task, diffusion.of, denoiser),
        calls=lambda settings: network_calls(settings, diffusion.initial.schedule),
    )


# Initialisers run once: optimising them took a CPU longer than anything else before the first step.
RUNS_ONCE = {"cpu": {"xla_backend_optimization_level": 0}}


LEAST = {
    "seed": 0,
    "data.workers": 1,
    "data.prefetch": 1,
    "optim.accumulate": 1,
    "optim.max_skipped": 1,
    "train.steps": 1,
    "train.batch_size": 1,
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
    "log.every": 1,
    "ema.snapshot_every": 0,
    "sampling.batch_size": 1,
    "sampling.grid_images": 1,
    "evaluation.validation_draws": 1,
    "evaluation.validation_images": 1,
    "evaluation.samples": 1,
}


def check_numbers(config) -> None:
    """Numbers that no run can use."""
    for key, least in LEAST.items():
        section, _, name = key.rpartition(".")
        value = (config[section] if section else config)[name]
        if value < least:
            raise ValueError(f"{key}={value} must be {least} or more")
    if not config.ema.decays or not all(0 <= decay < 1 for decay in config.ema.decays):
        raise ValueError(f"ema.decays={tuple(config.ema.decays)} must be one or more numbers in [0, 1)")
    if not all(0 < sigma_rel < ema.WIDEST for sigma_rel in config.ema.sigma_rels):
        raise ValueError(f"ema.sigma_rels={tuple(config.ema.sigma_rels)} must lie between 0 and {ema.WIDEST:.4f}")
    if config.ema.snapshot_every and not config.ema.sigma_rels:
        raise ValueError(
            f"ema.snapshot_every={config.ema.snapshot_every} has nothing to save: set ema.sigma_rels, or 0"
        )
    if config.seed >= 2**32:
        raise ValueError(f"seed={config.seed} must be below 2**32")


def check_batches(config, mesh) -> None:
    """Training batches that do not divide over devices and micro-batches."""
    parts = mesh.size * config.optim.accumulate
    what = f"parts ({mesh.size} devices x {config.optim.accumulate} micro-batches)"
    sharding.check_divides(config.train.batch_size, parts, "train.batch_size", what)


def build_task(config) -> Task:
    shape = config.data.shape
    if len(shape) != 3 or min(shape) < 1 or shape[2] not in (1, 3):
        raise ValueError(f"data.shape={shape} must be height, width, channels, with 1 or 3 channels")
    call = Call(config.task.name, (("drop", config.task.drop), ("flip", config.task.flip)))
    if not 0 <= config.task.drop <= 1:
        raise ValueError(f"task.drop={config.task.drop} is a share, in [0, 1]")
    return construct(TASKS, call, "task.name", tuple(config.data.shape), config.data.classes)


class Mathematics(NamedTuple):
    """The diffusion of a config, some of which may be learned."""

    of: Callable[[Any], Diffusion]  # params -> Diffusion
    init: Callable[[jax.Array], dict]  # key -> the parameters of its learned parts, beside the network's
    initial: Diffusion  # before training


def build_diffusion(config) -> Mathematics:
    section = config.diffusion
    schedule_of, init_schedule = build_schedule(section)
    call = parse_call(section.prediction, "diffusion.prediction")
    unlearned = schedule_of(init_schedule(jax.random.key(0)))
    parameterisation = construct(prediction.PARAMETERISATIONS, call, "diffusion.prediction", unlearned)
    weighting = named(losses.WEIGHTINGS, section.weighting, "diffusion.weighting")
    loss_of = choose(losses.LOSSES, section.loss, "diffusion.loss")
    sees_level = init_schedule is not no_parameters and call.name in prediction.LINES

    def init(key):
        more = {"uncertainty": init_uncertainty(key)} if section.uncertainty else {}
        return init_schedule(key) | more

    def of(params):
        schedule, what = schedule_of(params), parameterisation
        if sees_level:
            what = what._replace(noise_input=prediction.range_input(schedule))
        loss = loss_of(schedule, what, weighting)
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


def build_network(config, task: Task) -> tuple[Callable, Callable]:
    """(apply(params, x, noise_input, cond, dropout_key=None) -> out, init(key) -> params) of config.model."""
    module = build_model(config, task)

    def apply(params, x, noise_input, cond, dropout_key=None):
        train, rngs = dropout_key is not None, {"dropout": dropout_key}
        return module.apply({"params": params}, x, noise_input, cond, train=train, rngs=rngs if train else None)

    def init(key):
        image, label = jnp.zeros((1, *task.sample_shape), jnp.uint8), jnp.zeros((1,), jnp.int32)
        x0, cond = task.prepare(key[None], {"image": image, "label": label}, False)
        return module.init({"params": key}, x0, jnp.zeros((1,)), cond)["params"]

    return apply, init


def build_model(config, task: Task):
    """The network of config.model; its sizes and number of labels follow from data and task."""
    fields = config.model.to_dict()
    height, _, channels = config.data.shape
    return construct(
        MODELS,
        Call(fields.pop("name"), tuple(fields.items())),
        "model.name",
        size=height,
        out_channels=channels * (2 if config.diffusion.loss in losses.LEARNS_VARIANCE else 1),
        num_labels=task.labels,
    )


def build_optimiser(config):
    section = config.optim
    rate = optim.learning_rate_schedule(section.lr, section.warmup, section.decay_steps)
    builder = choose(optim.OPTIMISERS, section.name, "optim.name")
    return optim.with_clipping(builder(rate, section.b1, section.b2, section.eps, section.weight_decay), section.clip)


def build_source(config) -> Callable[[str], Source]:
    """split -> Source, opened on first use. Raises ValueError where it is not what the config says."""
    section = config.data
    builder = choose(DATASETS, section.name, "data.name")
    # Builders name what they take; for tfds the set has a name of its own, and its folder is optional.
    offered = {**section, "labels": bool(section.classes), "name": section.dataset, "data_dir": section.path or None}
    options = {key: offered[key] for key in inspect.signature(builder).parameters if key in offered}

    @functools.cache
    def source(split: str) -> Source:
        opened = builder(split, **options)
        if section.classes and len(opened.classes or ()) != section.classes:
            raise ValueError(
                f"data.classes={section.classes}, but {section.name} {split} has {len(opened.classes or ())}"
            )
        return opened

    return source


def device_batches(config, source, mesh, start: int) -> Iterator[dict]:
    """The training batches from step `start` on, as global arrays."""
    check_batches(config, mesh)
    batches = train_batches(
        source(config.data.train_split),
        config.train.batch_size,
        config.seed,
        start,
        workers=config.data.workers,
        prefetch=config.data.prefetch,
        **processes(),
    )
    return (sharding.put_batch(batch, mesh) for batch in batches)


def build_validation(config, source, mesh, losses_of: Callable) -> Callable:
    """-> validation_loss(params, check) -> (mean, n) over validation_images of the evaluation split."""

    @jax.jit
    def totals(params, batch):
        losses = losses_of(params, batch, batch["index"])
        return jnp.where(batch["valid"], losses, 0).sum(), batch["valid"].sum()

    def validation_loss(params, check: Callable[[], None] = lambda: None) -> tuple[float, int]:
        held_out = some(source(config.data.eval_split), config.evaluation.validation_images)
        size, sums = sharding.round_up(config.train.batch_size, mesh.size), np.zeros(2)
        rows = local_rows(size, **processes())
        for i, batch in enumerate(evaluation_batches(held_out, size, **processes())):
            check()
            batch["index"] = (i * size + rows).astype(np.uint32)
            sums += jax.device_get(totals(params, sharding.put_batch(batch, mesh)))
        return float(sums[0] / sums[1]), int(sums[1])

    return validation_loss


def processes() -> dict[str, int]:
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def build_sample(config, task: Task, diffusion_of: Callable[[Any], Diffusion], denoiser) -> Callable:
    """-> sample(params, seeds, cond, settings) -> images: one program for each Plan, whatever the numbers."""

    @functools.partial(jax.jit, static_argnames="plan")
    def program(params, seeds, cond, times, numbers, plan: Plan):
        keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), SAMPLING))(seeds)
        schedule, denoise = diffusion_of(params).schedule, denoiser(params, cond)
        if numbers["guidance"] is not None:
            pairs = denoiser(params, guidance.paired(cond, task.null(cond)))
            guided = guidance.guide_pairs(pairs, schedule, guidance.Guidance(numbers["guidance"], numbers["rescale"]))
            inside = numbers["interval"]
            denoise = guidance.within(guided, denoise, schedule, *inside) if inside else guided
        if plan.threshold:
            denoise = construct(
                guidance.THRESHOLDS, plan.threshold, "threshold", denoise, schedule, **numbers["threshold"]
            )
        sampler = construct(SAMPLERS, plan.sampler, "sampler", schedule, **numbers["sampler"])
        x = sampling.prior(keys, task.sample_shape, schedule, times[0])
        return task.restore(sampling.sample(keys, denoise, sampler, times, x))

    def sample(params, seeds, cond, settings: Settings):
        schedule = diffusion_of(params).schedule
        plan, numbers = plan_of(config, settings, schedule)
        times = grid_of(settings, schedule).astype(np.float32)
        return program(params, seeds, cond, times, numbers, plan=plan)

    return sample


# Folded into a key, so that what is drawn from it is not drawn elsewhere: sampling of a training of the same
# seed, and the initial values of what is learned beside the network.
SAMPLING = 2**32 - 4
LEARNED_PARTS = 2**32 - 5


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
    sampler = parse_call(settings.sampler, "sampling.sampler")
    learned = config.diffusion.loss in losses.LEARNS_VARIANCE
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


def grid_of(settings: Settings, schedule: Schedule) -> np.ndarray:
    return named(GRIDS, settings.grid, "sampling.grid", schedule, settings.steps)


def network_calls(settings: Settings, schedule: Schedule) -> int:
    """How often the network is called for a sample (NFE)."""
    times = grid_of(settings, schedule)
    return named(SAMPLERS, settings.sampler, "sampling.sampler", schedule).calls(times)
