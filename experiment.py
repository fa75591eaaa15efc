"""config -> Experiment: the one place where names become objects. Below it nobody sees a config."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from autoencoders import build_autoencoder
from calls import Call, choose, construct, named
from checks import check_batches, check_numbers
from edits import Edits
from families import FAMILIES, Parts, check_keys
from input_pipeline import DATASETS, Source, captions, embeddings, evaluation_batches, train_batches
from input_pipeline.batches import local_rows
from input_pipeline.source import empty_batch, some, watched
from models import text
from students import with_teacher
from training import ema, flops, optim, sharding
from training.augment import augmented
from training.digest import digest
from training.inpainting import inpainting
from training.latents import Autoencoder, latent
from training.state import TrainState, new_state
from training.step import Update, make_train_step
from training.super_resolution import super_resolution
from training.tasks import TASKS, Task


class Experiment(NamedTuple):
    """All that the modes need of a config, whatever its family of generative models."""

    task: Task
    text: text.TextEncoder | None  # of prompts and captions; None where there are none
    mesh: jax.sharding.Mesh
    source: Callable[[str], Source]  # split -> its images
    batches: Callable[[int], Iterator[dict]]  # step -> the training batches from there on, on the devices
    frozen: Callable[..., Any]  # (training=False, without=()) -> parameters that are not trained; None without any
    abstract_frozen: Any  # their shapes, types and shardings, in training
    init: Callable[..., TrainState]  # (seed, lr), or the config's; jitted, laid out over the mesh
    abstract: TrainState  # shapes, types and shardings of the state
    train_step: Callable  # (state, frozen, batch) -> (state, sums)
    metric_labels: dict[str, tuple[str, ...]]  # names of the entries of sums that are vectors
    validation_loss: Callable | None  # (params, frozen, check) -> (mean, n)
    sample: Callable  # (params, frozen, seeds [b], given, Settings) -> images [b h w c] in [-1, 1]
    calls: Callable  # Settings -> network calls a sample, guidance makes each a double one; raises where it cannot be
    bits: Callable | None  # (params, frozen, batch, keys [b]) -> {name: bits/dim [b]}
    schedule: Callable | None  # params -> Schedule; this and the next two are of diffusion alone
    denoiser: Callable | None  # (params, frozen, cond) -> Denoise
    edits: Edits | None  # sampling that is told what is known, or where to start


def build(config, mesh=None) -> Experiment:
    """Everything that can be refused without reading data or compiling is refused here, in one line.

    mesh: instead of config.mesh over all devices there are; one without devices gives shapes and sizes alone.
    """
    mesh = sharding.make_mesh(config.mesh.to_dict()) if mesh is None else mesh
    check_numbers(config)
    build_family = choose(FAMILIES, config.family, "family")
    check_keys(config)
    encoder = build_text(config)
    autoencoder = build_autoencoder(config) if config.latent.encoder else None
    task = build_task(config, encoder, autoencoder)
    frozen, abstract_frozen = build_frozen(config, mesh, encoder, autoencoder)
    whole = sharding.replicated(mesh)

    def task_at(size):
        other = config.copy_and_resolve_references()
        other.data.shape = (*size, config.data.shape[2])
        other.task.update(low_size=config.task.low_size * size[0] // config.data.shape[0], crop=0)
        return build_task(other, encoder)

    batch = example(config, encoder)
    family = build_family(Parts(config, task, task_at, encoder, mesh, whole, abstract_frozen, batch))

    averages = ema.rules(config.ema.decays, config.ema.warmup, config.ema.sigma_rels, config.ema.ramp)
    clip_each = config.optim.clip / config.optim.accumulate if config.optim.clip_each else 0.0
    update = Update(build_optimiser(config, family.rates), averages, family.averaged, family.project, clip_each)
    more = {"memory": family.objective.memory, "averaged": family.averaged}
    make_state = functools.partial(new_state, family.init, update.optimiser, tuple(averages), **more)
    shapes = jax.eval_shape(make_state, np.uint32(config.seed))
    placed = sharding.layout(mesh, shapes, shapes.params)
    sharding.check_used(mesh, shapes.params)
    platform = sharding.platform(mesh)
    make_state = jax.jit(make_state, out_shardings=placed, compiler_options=RUNS_ONCE.get(platform))
    train_step = make_train_step(family.objective, update, config.optim.accumulate)
    options = SIDE_BY_SIDE.get(platform)
    source = build_source(config, encoder, family.check)
    abstract = sharding.laid_out(shapes, placed)
    frozen, abstract_frozen = with_teacher(config, frozen, abstract_frozen, abstract.params)

    def init(seed=config.seed, lr=config.optim.lr):
        return make_state(np.uint32(seed), lr=np.float32(lr))

    return Experiment(
        task=task,
        text=encoder,
        mesh=mesh,
        source=source,
        batches=functools.partial(device_batches, config, source, mesh),
        frozen=frozen,
        abstract_frozen=abstract_frozen,
        init=init,
        abstract=abstract,
        train_step=jax.jit(train_step, donate_argnums=0, out_shardings=(placed, whole), compiler_options=options),
        metric_labels=family.objective.labels,
        validation_loss=family.validation and build_validation(config, source, mesh, family.validation),
        sample=family.sample,
        calls=family.calls,
        bits=family.bits,
        schedule=family.schedule,
        denoiser=family.denoiser,
        edits=family.edits,
    )


# Initialisers run once: optimising them took a CPU longer than anything else before the first step.
RUNS_ONCE = {"cpu": {"xla_backend_optimization_level": 0}}
# Operations that do not need each other run at once: a train step is a tenth to a sixth faster on two cores.
SIDE_BY_SIDE = {"cpu": {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_CONCURRENCY_OPTIMIZED"}}


def build_text(config) -> text.TextEncoder | None:
    if config.task.name != "text":
        return None
    if not config.data.captions:
        raise ValueError("task.name=text needs captions: set data.captions")
    encoder = named(text.TEXT_ENCODERS, config.text.encoder, "text.encoder")
    if not encoder.traced and not config.text.embeddings:
        raise ValueError(f"text.encoder={config.text.encoder!r} runs on the host alone: make text.embeddings with it")
    return encoder


def build_frozen(
    config, mesh, encoder: text.TextEncoder | None, autoencoder: Autoencoder | None
) -> tuple[Callable[..., Any], Any]:
    """(frozen(without=()), shapes) of the parameters that are not trained, laid out over the mesh; None without any.

    Each part is read once, when it is first among what is asked.
    """
    shapes, load = {}, {}
    if encoder and not config.text.embeddings and encoder.abstract() is not None:
        shapes["text"] = encoder.abstract()
        load["text"] = lambda like: encoder.load(sharding.placement(mesh))
    if autoencoder:
        channels = jax.ShapeDtypeStruct((autoencoder.channels,), jnp.float32)
        shapes["latent"] = {"params": autoencoder.abstract, "mean": channels, "std": channels}
        load["latent"] = functools.partial(load_latent, config, autoencoder)
    if not shapes:
        return lambda without=(): None, None
    abstract = sharding.laid_out(shapes, sharding.layout(mesh, shapes))

    @functools.cache
    def part(name):
        return load[name](abstract[name])

    def frozen(without=()):
        return {name: part(name) for name in shapes if name not in without}

    return frozen, abstract


def load_latent(config, autoencoder: Autoencoder, like: dict) -> dict:
    """frozen['latent']. Raises ValueError where the statistics are not known, or not of these latents."""
    section, channels = config.latent, autoencoder.channels
    if not len(section.mean) == len(section.std) == channels:
        raise ValueError(
            f"latent.mean has {len(section.mean)} and latent.std {len(section.std)} numbers, and the latents of "
            f"{section.encoder} {channels} channels: --mode=train measures them where both are ()"
        )
    params = autoencoder.load(like["params"])
    if section.digest and (found := digest(params)) != section.digest:
        raise ValueError(
            f"latent.encoder={section.encoder} has parameters {found} now, and latent.mean and std were measured with "
            f"{section.digest} (latent.digest): bring those back, or train another run"
        )
    numbers = {key: jax.device_put(np.float32(section[key]), like[key].sharding) for key in ("mean", "std")}
    return {"params": params} | numbers


def example(config, encoder: text.TextEncoder | None) -> dict[str, np.ndarray]:
    """A training batch of one, all zeros."""
    batch = empty_batch(1, tuple(config.data.shape))
    if encoder is None:
        return batch
    batch["text_mask"] = np.zeros((1, encoder.length), bool)
    if config.text.embeddings:
        return batch | {"text": np.zeros((1, encoder.length, encoder.width), embeddings.ROW_TYPE)}
    return batch | {"tokens": np.zeros((1, encoder.length), np.int32)}


def build_task(config, encoder: text.TextEncoder | None, autoencoder: Autoencoder | None = None) -> Task:
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
        return text.condition(encoder, (frozen or {}).get("text"), batch)

    call = Call(section.name, (("drop", section.drop), ("flip", section.flip)))
    more = {"encode": encode} if encoder else {}
    task = construct(TASKS, call, "task.name", shape, config.data.classes, **more)
    if section.augment:
        task = augmented(task, section.augment)
    if autoencoder and (section.inpaint or section.low_size):
        raise ValueError("task.inpaint and task.low_size are of pixels, and latent.encoder is set: leave one of them")
    if autoencoder:
        return latent(task, autoencoder)
    if section.inpaint:
        return inpainting(task)
    return super_resolution(task, section.low_size, section.crop) if section.low_size else task


def build_optimiser(config, rates: dict[str, float]):
    """Of all parameters; or one for each part of them that `rates` names, at this share of the learning rate."""
    section = config.optim
    builder = choose(optim.OPTIMISERS, section.name, "optim.name")

    def one(peak):
        rate = optim.learning_rate_schedule(peak, section.warmup, section.decay_steps, section.root_from)
        built = builder(rate, section.b1, section.b2, section.eps, section.weight_decay)
        return optim.with_clipping(built, 0.0 if section.clip_each else section.clip)

    return optim.each({name: one(peak) for name, peak in rates.items()}) if rates else one(1.0)


def build_source(config, encoder: text.TextEncoder | None, check: Callable | None = None) -> Callable[[str], Source]:
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
        if check:
            opened = watched(opened, check)
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
