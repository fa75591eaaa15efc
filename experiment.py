"""config -> Experiment: the one place where names become objects. Below it nobody sees a config."""

import ast
import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import guidance, losses, prediction, sampling, times
from diffusion.samplers import SAMPLERS
from diffusion.schedules import SCHEDULES
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


class Settings(NamedTuple):
    """How to sample, in the words of config.sampling."""

    sampler: str
    steps: int
    grid: str
    guidance: float | None
    threshold: str


class Call(NamedTuple):
    """A small part named as it would be called. Hashable, so that it can be fixed in a compiled program."""

    name: str
    arguments: tuple[tuple[str, Any], ...] = ()

    def split(self) -> tuple["Call", dict[str, float]]:
        """What is fixed in a program, and the floats, which are traced: a sweep over them compiles once."""
        fixed = tuple((key, value) for key, value in self.arguments if not isinstance(value, float))
        return self._replace(arguments=fixed), {k: v for k, v in self.arguments if isinstance(v, float)}


def parse_call(text: str, key: str) -> Call:
    """'ddim(eta=0.5)' or 'ddim' -> Call. Raises ValueError for anything but a name and literal keyword arguments."""
    try:
        node = ast.parse(text, mode="eval").body
        if isinstance(node, ast.Name):
            return Call(node.id)
        if node.args:
            raise ValueError("positional argument")
        return Call(node.func.id, tuple((word.arg, ast.literal_eval(word.value)) for word in node.keywords))
    except (SyntaxError, ValueError, AttributeError):
        raise ValueError(f"{key}={text!r} is not of the form name or name(key=value, ...)") from None


def choose(table: dict, name: str, key: str):
    if name not in table:
        raise ValueError(f"{key}={name!r} is unknown; choose from {', '.join(sorted(table))}")
    return table[name]


def construct(table: dict, call: Call, key: str, *given, **more):
    """table[call.name](*given, **arguments, **more); a wrong name or argument is a ValueError that says what is."""
    builder, arguments = choose(table, call.name, key), {**dict(call.arguments), **more}
    signature = inspect.signature(builder)
    try:
        signature.bind(*given, **arguments)
    except TypeError as error:
        taken = [name for name in list(signature.parameters)[len(given) :] if name not in more]
        raise ValueError(f"{key}: {call.name}: {error}; it takes {', '.join(taken) or 'no arguments'}") from None
    try:
        return builder(*given, **arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key}: {call.name}: {error}") from error


def named(table: dict, text: str, key: str, *given):
    """What a config's text names in a table, constructed."""
    return construct(table, parse_call(text, key), key, *given)


def build(config) -> Experiment:
    """Everything that can be refused without reading data or compiling is refused here, in one line."""
    mesh = sharding.data_mesh()
    check_numbers(config)
    task = build_task(config)
    diffusion = build_diffusion(config)
    apply, init_params = build_network(config, task)
    plan_of(config, diffusion.schedule, settings_of(config))
    update = Update(build_optimiser(config), tuple(config.ema.decays), config.ema.warmup)
    names = tuple(map(ema.name, update.ema_decays))
    init = functools.partial(new_state, init_params, update.optimiser, names, config.seed)
    whole = sharding.replicated(mesh)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), jax.eval_shape(init))
    train_step = make_train_step(diffusion_objective(apply, task, diffusion), update, config.optim.accumulate)
    held_out_losses = validation_losses(apply, task, diffusion, config.evaluation.validation_draws)
    source = build_source(config)

    def denoiser(params, cond):
        return prediction.denoiser(
            functools.partial(apply, params), cond, diffusion.schedule, diffusion.parameterisation
        )

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
        sample=build_sample(config, task, diffusion.schedule, denoiser),
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


def build_diffusion(config) -> Diffusion:
    section = config.diffusion
    schedule = named(SCHEDULES, section.schedule, "diffusion.schedule")
    parameterisation = named(prediction.PARAMETERISATIONS, section.prediction, "diffusion.prediction", schedule)
    weighting = named(losses.WEIGHTINGS, section.weighting, "diffusion.weighting")
    mean_loss = losses.weighted(schedule, parameterisation, weighting)
    learned = section.learned_variance
    loss = losses.hybrid(schedule, parameterisation, weighting) if learned else mean_loss
    return Diffusion(schedule, parameterisation, weighting, loss, mean_loss)


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
        out_channels=channels * (2 if config.diffusion.learned_variance else 1),
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


def build_sample(config, task: Task, schedule, denoiser) -> Callable:
    """-> sample(params, seeds, cond, settings) -> images: one program for each Plan, whatever the numbers."""

    @functools.partial(jax.jit, static_argnames="plan")
    def program(params, seeds, cond, numbers, plan: Plan):
        keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), SAMPLING))(seeds)
        if plan.guided:
            pairs = guidance.paired(cond, task.null(cond))
            denoise = guidance.guide_pairs(denoiser(params, pairs), numbers["guidance"])
        else:
            denoise = denoiser(params, cond)
        if plan.threshold:
            denoise = construct(
                guidance.THRESHOLDS, plan.threshold, "threshold", denoise, schedule, **numbers["threshold"]
            )
        sampler = construct(SAMPLERS, plan.sampler, "sampler", schedule, **numbers["sampler"])
        x = sampling.prior(keys, task.sample_shape, schedule)
        return task.restore(sampling.sample(keys, denoise, sampler, plan.grid(schedule, plan.steps), x))

    def sample(params, seeds, cond, settings: Settings):
        plan, numbers = plan_of(config, schedule, settings)
        return program(params, seeds, cond, numbers, plan=plan)

    return sample


# Folded into a seed's key, so that a training of the same seed does not share its draws.
SAMPLING = 2**32 - 4


def settings_of(config) -> Settings:
    section = config.sampling
    return Settings(section.sampler, section.steps, section.grid, section.guidance, section.threshold)


class Plan(NamedTuple):
    """The part of Settings that is fixed in a program."""

    sampler: Call
    steps: int
    grid: Callable
    guided: bool
    threshold: Call | None


def plan_of(config, schedule, settings: Settings) -> tuple[Plan, dict]:
    """Settings -> (what is fixed in the program, the numbers that are traced). Names and values are checked here."""
    guided = settings.guidance is not None
    if guided and not config.task.drop:
        raise ValueError(f"guidance {settings.guidance} needs a network trained with task.drop > 0; this one has 0")
    if guided and not math.isfinite(settings.guidance):
        raise ValueError(f"guidance {settings.guidance} must be a finite number")
    grid = choose(times.GRIDS, settings.grid, "sampling.grid")
    grid(schedule, settings.steps)
    sampler = parse_call(settings.sampler, "sampling.sampler")
    construct(SAMPLERS, sampler, "sampling.sampler", schedule)
    if ("variance", "learned") in sampler.arguments and not config.diffusion.learned_variance:
        raise ValueError(f"sampling.sampler={settings.sampler!r} needs diffusion.learned_variance=True; it is False")
    sampler, sampler_numbers = sampler.split()
    threshold, threshold_numbers = None, {}
    if settings.threshold != "none":
        threshold = parse_call(settings.threshold, "sampling.threshold")
        construct(guidance.THRESHOLDS, threshold, "sampling.threshold", None, schedule)
        threshold, threshold_numbers = threshold.split()
    numbers = {"guidance": settings.guidance, "sampler": sampler_numbers, "threshold": threshold_numbers}
    return Plan(sampler, settings.steps, grid, guided, threshold), numbers
