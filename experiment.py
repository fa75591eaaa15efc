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
    """A small part named as it would be called."""

    name: str
    arguments: dict[str, Any]

    def split(self) -> tuple["Call", dict[str, float]]:
        """What is fixed in a program, and the floats, which are traced: a sweep over them compiles once."""
        traced = {key: value for key, value in self.arguments.items() if isinstance(value, float)}
        fixed = {key: value for key, value in self.arguments.items() if key not in traced}
        return Call(self.name, fixed), traced


def parse_call(text: str, key: str) -> Call:
    """'ddim(eta=0.5)' or 'ddim' -> Call. Raises ValueError for anything but a name and literal keyword arguments."""
    try:
        node = ast.parse(text, mode="eval").body
        if isinstance(node, ast.Name):
            return Call(node.id, {})
        if node.args:
            raise ValueError("positional argument")
        return Call(node.func.id, {word.arg: ast.literal_eval(word.value) for word in node.keywords})
    except (SyntaxError, ValueError, AttributeError):
        raise ValueError(f"{key}={text!r} is not of the form name or name(key=value, ...)") from None


def choose(table: dict, name: str, key: str):
    if name not in table:
        raise ValueError(f"{key}={name!r} is unknown; choose from {', '.join(sorted(table))}")
    return table[name]


def construct(table: dict, call: Call, key: str, *given, **more):
    """table[call.name](*given, **arguments); a wrong name or argument is a ValueError that says what is right."""
    builder = choose(table, call.name, key)
    try:
        inspect.signature(builder).bind(*given, **call.arguments, **more)
    except TypeError as error:
        taken = [
            name for name in list(inspect.signature(builder).parameters)[len(given) :] if name not in more
        ]
        raise ValueError(
            f"{key}: {call.name}: {error}; it takes {', '.join(taken) or 'no arguments'}"
        ) from None
    return builder(*given, **call.arguments, **more)


def build(config) -> Experiment:
    """Everything that can be refused without reading data or compiling is refused here, in one line."""
    mesh = sharding.data_mesh()
    check_batches(config, mesh)
    task = build_task(config)
    diffusion = build_diffusion(config)
    module = build_model(config)

    def apply(params, x, noise_input, cond, dropout_key=None):
        train, rngs = dropout_key is not None, {"dropout": dropout_key}
        return module.apply(
            {"params": params}, x, noise_input, cond, train=train, rngs=rngs if train else None
        )

    def init_params(key):
        x = jnp.zeros((1, *task.sample_shape))
        cond = {"label": jnp.zeros((1,), jnp.int32)} if config.data.classes else {}
        return module.init({"params": key}, x, jnp.zeros((1,)), cond)["params"]

    update = Update(build_optimiser(config), tuple(config.ema.decays), config.ema.warmup)
    names = tuple(map(ema.name, update.ema_decays))
    init = functools.partial(new_state, init_params, update.optimiser, names, config.seed)
    whole = sharding.replicated(mesh)
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), jax.eval_shape(init)
    )
    train_step = make_train_step(diffusion_objective(apply, task, diffusion), update, config.optim.accumulate)
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
        init=jax.jit(init, out_shardings=whole),
        abstract=abstract,
        train_step=jax.jit(train_step, donate_argnums=0),
        validation_loss=build_validation(config, source, mesh, validation_losses(
            apply, task, diffusion, config.evaluation.validation_draws)),
        denoiser=denoiser,
        sample=build_sample(config, task, diffusion.schedule, denoiser, mesh),
    )  # fmt: skip


def check_batches(config, mesh) -> None:
    """Batches that do not divide over processes, devices and micro-batches."""
    parts = mesh.size * config.optim.accumulate
    what = f"parts ({mesh.size} devices x {config.optim.accumulate} micro-batches)"
    if config.optim.accumulate < 1:
        raise ValueError(f"optim.accumulate={config.optim.accumulate} must be 1 or more")
    sharding.check_divides(config.train.batch_size, parts, "train.batch_size", what)


def build_task(config) -> Task:
    call = Call(config.task.name, {"drop": config.task.drop, "flip": config.task.flip})
    if not 0 <= config.task.drop <= 1:
        raise ValueError(f"task.drop={config.task.drop} is a share, in [0, 1]")
    return construct(TASKS, call, "task.name", tuple(config.data.shape), config.data.classes)


def build_diffusion(config) -> Diffusion:
    section = config.diffusion
    schedule = construct(SCHEDULES, parse_call(section.schedule, "diffusion.schedule"), "diffusion.schedule")
    call = parse_call(section.prediction, "diffusion.prediction")
    parameterisation = construct(prediction.PARAMETERISATIONS, call, "diffusion.prediction", schedule)
    call = parse_call(section.weighting, "diffusion.weighting")
    weighting = construct(losses.WEIGHTINGS, call, "diffusion.weighting")
    loss = losses.hybrid if section.learned_variance else losses.weighted
    return Diffusion(schedule, parameterisation, weighting, loss(schedule, parameterisation, weighting))


def build_model(config):
    """The network of config.model; its sizes and number of labels follow from data and task."""
    fields = config.model.to_dict()
    height, _, channels = config.data.shape
    labels = config.data.classes + (config.task.drop > 0) if config.task.name == "class" else 0
    return construct(
        MODELS,
        Call(fields.pop("name"), fields),
        "model.name",
        size=height,
        out_channels=channels * (2 if config.diffusion.learned_variance else 1),
        num_labels=labels,
    )


def build_optimiser(config):
    section = config.optim
    rate = optim.learning_rate_schedule(section.learning_rate, section.warmup, section.decay_steps)
    builder = choose(optim.OPTIMISERS, section.name, "optim.name")
    return optim.with_clipping(
        builder(rate, section.b1, section.b2, section.eps, section.weight_decay), section.clip
    )


def build_source(config) -> Callable[[str], Source]:
    """split -> Source, opened on first use. Raises ValueError where it is not what the config says."""
    section = config.data
    builder = choose(DATASETS, section.name, "data.name")
    taken = inspect.signature(builder).parameters
    options = {key: value for key, value in section.items() if key in taken}
    if "labels" in taken:
        options["labels"] = bool(section.classes)

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
    """-> validation_loss(params): the mean over the first validation_images of the evaluation split."""

    @jax.jit
    def totals(params, batch):
        losses = losses_of(params, batch, batch["index"])
        return jnp.where(batch["valid"], losses, 0).sum(), batch["valid"].sum()

    def validation_loss(params, check: Callable[[], None] = lambda: None) -> float:
        held_out = source(config.data.eval_split)
        held_out = held_out._replace(size=min(held_out.size, config.evaluation.validation_images))
        size, sums = config.train.batch_size, np.zeros(2)
        rows = local_rows(size, **processes())
        for i, batch in enumerate(evaluation_batches(held_out, size, **processes())):
            check()
            batch["index"] = (i * size + rows).astype(np.uint32)
            sums += jax.device_get(totals(params, sharding.put_batch(batch, mesh)))
        return float(sums[0] / sums[1])

    return validation_loss


def processes() -> dict[str, int]:
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def build_sample(config, task: Task, schedule, denoiser, mesh) -> Callable:
    """-> sample(params, seeds, cond, settings): one program for each combination of what cannot be traced."""

    def program(params, seeds, cond, numbers, fixed):
        sampler_call, steps, grid, guided, threshold_call = fixed
        keys = jax.vmap(jax.random.key)(seeds)
        if guided:
            denoise = denoiser(params, guidance.paired(cond, task.null(cond)))
            denoise = guidance.guide_pairs(denoise, numbers["guidance"])
        else:
            denoise = denoiser(params, cond)
        if threshold_call:
            wrap = functools.partial(guidance.THRESHOLDS[threshold_call[0]], **dict(threshold_call[1]))
            denoise = wrap(denoise, schedule, **numbers["threshold"])
        sampler = SAMPLERS[sampler_call[0]](schedule, **dict(sampler_call[1]), **numbers["sampler"])
        x = sampling.prior(keys, task.sample_shape, schedule)
        return task.restore(sampling.sample(keys, denoise, sampler, times.GRIDS[grid](schedule, steps), x))

    compiled = jax.jit(program, static_argnames="fixed")

    def sample(params, seeds, cond, settings: Settings):
        fixed, numbers = resolve(config, schedule, settings)
        return compiled(params, seeds, cond, numbers, fixed=fixed)

    return sample


def resolve(config, schedule, settings: Settings) -> tuple[tuple, dict]:
    """Settings -> (what is fixed in the program, what is traced), each name and argument checked once, eagerly."""
    if settings.guidance is not None and not config.task.drop:
        raise ValueError(
            f"guidance {settings.guidance} needs a network trained with task.drop > 0; this one has 0"
        )
    if settings.guidance is not None and not math.isfinite(settings.guidance):
        raise ValueError(f"guidance {settings.guidance} must be a finite number")
    choose(times.GRIDS, settings.grid, "sampling.grid")(schedule, settings.steps)
    call = parse_call(settings.sampler, "sampling.sampler")
    construct(SAMPLERS, call, "sampling.sampler", schedule)
    sampler, numbers = call.split()
    fixed = [(sampler.name, tuple(sampler.arguments.items())), settings.steps, settings.grid]
    numbers = {"sampler": numbers, "guidance": settings.guidance, "threshold": {}}
    fixed += [settings.guidance is not None, None]
    if settings.threshold != "none":
        call = parse_call(settings.threshold, "sampling.threshold")
        construct(guidance.THRESHOLDS, call, "sampling.threshold", lambda x, t: None, schedule)
        threshold, numbers["threshold"] = call.split()
        fixed[-1] = (threshold.name, tuple(threshold.arguments.items()))
    return tuple(fixed), numbers
