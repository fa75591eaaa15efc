"""config -> Experiment: the one place where names become objects. Below it nobody sees a config."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calls import Call, choose, construct, named, parse_call
from checks import check_batches, check_model, check_numbers
from diffusion import losses, prediction
from diffusion.schedules import COMPOSED, LEARNED, SCHEDULES, Schedule, checked
from diffusion.times import TIMES, Times
from diffusion.uncertainty import init_uncertainty, log_variance
from edits import Edits, build_edits
from input_pipeline import DATASETS, Source, captions, embeddings, evaluation_batches, train_batches
from input_pipeline.batches import local_rows
from input_pipeline.source import empty_batch, some
from models import MODELS, text
from plans import build_sample, network_calls, plan_of, settings_of
from training import ema, flops, optim, sharding
from training.augment import augmented
from training.inpainting import inpainting
from training.objective import Diffusion, diffusion_objective, validation_losses
from training.state import TrainState, new_state
from training.step import Update, make_train_step
from training.super_resolution import super_resolution
from training.tasks import TASKS, Task


class Experiment(NamedTuple):
    """All that the modes need of a config. Any family of generative models is one of these."""

    task: Task
    text: text.TextEncoder | None  # of prompts and captions; None where there are none
    mesh: jax.sharding.Mesh
    source: Callable[[str], Source]  # split -> its images
    batches: Callable[[int], Iterator[dict]]  # step -> the training batches from there on, on the devices
    frozen: Callable[[], Any]  # parameters that are not trained, loaded once; None where there are none
    abstract_frozen: Any  # their shapes, types and shardings
    init: Callable[..., TrainState]  # (seed, lr), or the config's; jitted, laid out over the mesh
    abstract: TrainState  # shapes, types and shardings of the state
    train_step: Callable  # (state, frozen, batch) -> (state, sums)
    validation_loss: Callable  # (params, frozen, check) -> (mean, n)
    schedule: Callable  # params -> Schedule
    denoiser: Callable  # (params, frozen, cond) -> Denoise
    sample: Callable  # (params, frozen, seeds [b], given, Settings) -> images [b h w c] in [-1, 1]
    edits: Edits  # sampling that is told what is known, or where to start
    calls: Callable  # Settings -> network calls a sample; guidance makes each a double one


def build(config, mesh=None) -> Experiment:
    """Everything that can be refused without reading data or compiling is refused here, in one line.

    mesh: instead of config.mesh over all devices there are; one without devices gives shapes and sizes alone.
    """
    mesh = sharding.make_mesh(config.mesh.to_dict()) if mesh is None else mesh
    check_numbers(config)
    encoder = build_text(config)
    task = build_task(config, encoder)
    diffusion = build_diffusion(config)
    frozen, abstract_frozen = build_frozen(config, mesh, encoder)
    apply, init_network, project = build_network(config, task, encoder, abstract_frozen)
    apply = sharding.gathering(mesh, apply, again=config.model.remat == "none")
    network_calls(settings_of(config), diffusion.initial.schedule)
    plan_of(config, settings_of(config), diffusion.initial.schedule)

    def init_params(key):
        return init_network(key) | diffusion.init(jax.random.fold_in(key, LEARNED_PARTS))

    averages = ema.rules(config.ema.decays, config.ema.warmup, config.ema.sigma_rels, config.ema.ramp)
    clip_each = config.optim.clip / config.optim.accumulate if config.optim.clip_each else 0.0
    update = Update(build_optimiser(config), averages, project, clip_each)
    times = build_times(config, diffusion.initial.schedule)
    make_state = functools.partial(new_state, init_params, update.optimiser, tuple(averages), memory=times.init)
    shapes = jax.eval_shape(make_state, np.uint32(config.seed))
    placed, whole = sharding.layout(mesh, shapes, shapes.params), sharding.replicated(mesh)
    sharding.check_used(mesh, shapes.params)
    make_state = jax.jit(make_state, out_shardings=placed, compiler_options=RUNS_ONCE.get(jax.default_backend()))
    strata = config.train.batch_size if config.diffusion.stratified else 0
    objective = diffusion_objective(apply, task, diffusion.of, times, strata)
    train_step = make_train_step(objective, update, config.optim.accumulate)
    held_out_losses = validation_losses(apply, task, diffusion.of, times, config.evaluation.validation_draws)
    source = build_source(config, encoder)

    def init(seed=config.seed, lr=config.optim.lr):
        return make_state(np.uint32(seed), lr=np.float32(lr))

    def denoiser(params, frozen, cond):
        now = diffusion.of(params)
        return prediction.denoiser(functools.partial(apply, params), cond, now.schedule, now.parameterisation)

    def task_at(size):
        other = config.copy_and_resolve_references()
        other.data.shape = (*size, config.data.shape[2])
        other.task.update(low_size=config.task.low_size * size[0] // config.data.shape[0], crop=0)
        return build_task(other, encoder)

    return Experiment(
        task=task,
        text=encoder,
        mesh=mesh,
        source=source,
        batches=functools.partial(device_batches, config, source, mesh),
        frozen=frozen,
        abstract_frozen=abstract_frozen,
        init=init,
        abstract=sharding.laid_out(shapes, placed),
        train_step=jax.jit(train_step, donate_argnums=0, out_shardings=(placed, whole)),
        validation_loss=build_validation(config, source, mesh, held_out_losses),
        schedule=lambda params: diffusion.of(params).schedule,
        denoiser=denoiser,
        sample=build_sample(config, task, diffusion.of, denoiser, whole),
        edits=build_edits(config, task, task_at, diffusion.of, diffusion.initial.schedule, denoiser, whole),
        calls=lambda settings: network_calls(settings, diffusion.initial.schedule),
    )


# Initialisers run once: optimising them took a CPU longer than anything else before the first step.
RUNS_ONCE = {"cpu": {"xla_backend_optimization_level": 0}}


def build_text(config) -> text.TextEncoder | None:
    if config.task.name != "text":
        return None
    if not config.data.captions:
        raise ValueError("task.name=text needs captions: set data.captions")
    encoder = named(text.TEXT_ENCODERS, config.text.encoder, "text.encoder")
    if not encoder.traced and not config.text.embeddings:
        raise ValueError(f"text.encoder={config.text.encoder!r} runs on the host alone: make text.embeddings with it")
    return encoder


def build_frozen(config, mesh, encoder: text.TextEncoder | None) -> tuple[Callable[[], Any], Any]:
    """(-> the parameters that are not trained, read once, laid out over the mesh; their shapes). None without any."""
    shapes = encoder.abstract() if encoder and not config.text.embeddings else None
    if shapes is None:
        return lambda: None, None

    @functools.cache
    def frozen():
        return {"text": encoder.load(sharding.placement(mesh))}

    return frozen, {"text": sharding.laid_out(shapes, sharding.layout(mesh, shapes))}


def example(config, encoder: text.TextEncoder | None) -> dict[str, np.ndarray]:
    """A training batch of one, all zeros."""
    batch = empty_batch(1, tuple(config.data.shape))
    if encoder is None:
        return batch
    batch["text_mask"] = np.zeros((1, encoder.length), bool)
    if config.text.embeddings:
        return batch | {"text": np.zeros((1, encoder.length, encoder.width), embeddings.ROW_TYPE)}
    return batch | {"tokens": np.zeros((1, encoder.length), np.int32)}


def build_task(config, encoder: text.TextEncoder | None) -> Task:
    shape, section = tuple(config.data.shape), config.task
    if len(shape) != 3 or min(shape) < 1 or shape[2] not in (1, 3):
        raise ValueError(f"data.shape={shape} must be height, width, channels, with 1 or 3 channels")
    if not 0 <= section.drop <= 1:
        raise ValueError(f"task.drop={section.drop} is a share, in [0, 1]")
    if section.crop and not section.low_size:
        raise ValueError(f"task.crop={section.crop} is of super-resolution, and task.low_size is 0")
    if section.inpaint and section.low_size:
        raise ValueError(f"task.inpaint and task.low_size={section.low_size} are two tasks; set one of them")

    def encode(frozen, batch):
        return text.condition(encoder, frozen and frozen["text"], batch)

    call = Call(section.name, (("drop", section.drop), ("flip", section.flip)))
    more = {"encode": encode} if encoder else {}
    task = construct(TASKS, call, "task.name", shape, config.data.classes, **more)
    if section.augment:
        task = augmented(task, section.augment)
    if section.inpaint:
        return inpainting(task)
    return super_resolution(task, section.low_size, section.crop) if section.low_size else task


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


def build_network(config, task: Task, encoder: text.TextEncoder | None, frozen) -> tuple[Callable, Callable, Callable]:
    """(apply, init, project) of config.model: apply(params, x, noise_input, cond, dropout_key=None) -> out;
    init(key) -> params; project(params) -> params, which puts them back where the network wants them.
    """
    module = build_model(config, task, encoder)

    def apply(params, x, noise_input, cond, dropout_key=None):
        train, rngs = dropout_key is not None, {"dropout": dropout_key}
        return module.apply({"params": params}, x, noise_input, cond, train=train, rngs=rngs if train else None)

    def init(key):
        prepare = functools.partial(task.prepare, train=False)
        shapes = jax.eval_shape(prepare, frozen, key[None], example(config, encoder))
        x0, cond = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return module.init({"params": key}, x0, jnp.zeros((1,)), cond)["params"]

    return apply, init, getattr(module, "project", lambda params: params)


def build_model(config, task: Task, encoder: text.TextEncoder | None):
    """The network of config.model; its sizes, its number of labels and a learned encoder follow from the rest."""
    fields = config.model.to_dict()
    name, (height, _, channels) = fields.pop("name"), config.data.shape
    taken = inspect.signature(choose(MODELS, name, "model.name")).parameters
    check_model(name, fields, taken)
    learned_variance = parse_call(config.diffusion.loss, "diffusion.loss").name in losses.LEARNS_VARIANCE
    return construct(
        MODELS,
        Call(name, tuple((key, value) for key, value in fields.items() if key in taken)),
        "model.name",
        size=height,
        out_channels=channels * (2 if learned_variance else 1),
        num_labels=task.labels,
        **({"text_encoder": encoder.module} if encoder and encoder.module else {}),
    )


def build_optimiser(config):
    section = config.optim
    rate = optim.learning_rate_schedule(1.0, section.warmup, section.decay_steps, section.root_from)
    builder = choose(optim.OPTIMISERS, section.name, "optim.name")
    clip = 0.0 if section.clip_each else section.clip
    return optim.with_clipping(builder(rate, section.b1, section.b2, section.eps, section.weight_decay), clip)


def build_source(config, encoder: text.TextEncoder | None) -> Callable[[str], Source]:
    """split -> Source, opened on first use, its captions as tokens, or as embeddings made before.

    Raises ValueError where it is not what the config says.
    """
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
        if encoder is None:
            return opened
        if config.text.embeddings:
            sizes = dict(width=encoder.width, length=encoder.length, max_bad_share=section.max_bad_share)
            return embeddings.embedded(opened, config.text.embeddings, split, **sizes)
        return captions.tokenised(opened, encoder.tokenise)

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
        **sharding.batch_share(mesh),
    )
    return (sharding.put_batch(batch, mesh) for batch in batches)


def abstract_batch(config, mesh, rows: int) -> dict:
    """Shapes, types and layout of a training batch of so many rows; no data is opened."""
    batch, split = example(config, build_text(config)), sharding.over_data(mesh)
    return {name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=split) for name, x in batch.items()}


def model_flops(config) -> int:
    """Operations of a train step by the model alone: without what remat computes twice, whatever the mesh."""
    config = config.copy_and_resolve_references()
    config.model.remat = "none"
    built = build(config, sharding.abstract_mesh({"data": 1, "fsdp": 1, "tensor": 1}, 1))
    batch = abstract_batch(config, built.mesh, config.train.batch_size)
    return flops.count(jax.make_jaxpr(built.train_step)(built.abstract, built.abstract_frozen, batch))


def build_validation(config, source, mesh, losses_of: Callable) -> Callable:
    """-> validation_loss(params, frozen, check) -> (mean, n) over validation_images of the evaluation split."""

    @functools.partial(jax.jit, out_shardings=sharding.replicated(mesh))
    def totals(params, frozen, batch):
        losses = losses_of(params, frozen, batch, batch["index"])
        return jnp.where(batch["valid"], losses, 0).sum(), batch["valid"].sum()

    def validation_loss(params, frozen, check: Callable[[], None] = lambda: None) -> tuple[float, int]:
        held_out = some(source(config.data.eval_split), config.evaluation.validation_images)
        size, sums = sharding.round_up(config.train.batch_size, sharding.batch_parts(mesh)), np.zeros(2)
        share = sharding.batch_share(mesh)
        rows = local_rows(size, **share)
        for i, batch in enumerate(evaluation_batches(held_out, size, **share)):
            check()
            batch["index"] = (i * size + rows).astype(np.uint32)
            sums += jax.device_get(totals(params, frozen, sharding.put_batch(batch, mesh)))
        return float(sums[0] / sums[1]), int(sums[1])

    return validation_loss


# Folded into the parameters' key: the initial values of what is learned beside the network.
LEARNED_PARTS = 2**32 - 5
