"""From seeds to images in files: which labels, drawn in equal batches, written with what they depend on."""

import io

import jax
import numpy as np

import workdir as records
from evaluation.images import captioned_grid, make_grid, save_png, to_uint8
from experiment import Experiment
from input_pipeline import evaluation_batches
from input_pipeline.batches import local_rows
from input_pipeline.source import some
from training import sharding
from training.metrics import write_atomic

GOLDEN = (5**0.5 - 1) / 2


def spread_labels(counts, seeds) -> np.ndarray:
    """Labels in the proportions of `counts`, a function of the seed alone.

    The seeds walk a Weyl sequence through the cumulative proportions, so that any run of consecutive seeds has the
    proportions to within a few images, however many are drawn.
    """
    u = np.asarray(seeds, np.float64) * GOLDEN % 1
    edges = np.cumsum(counts) / np.sum(counts)
    return np.searchsorted(edges[:-1], u, side="right").astype(np.int32)


def training_condition(experiment: Experiment, config, seeds) -> dict[str, np.ndarray]:
    """The condition of each seed as the training set has it: {'label' [n]}, uniform where it does not say, or {}.

    Captions, and parts or smaller versions of images with what else is said of them, are those of held-out examples.
    """
    if experiment.text or config.task.low_size or config.task.inpaint:
        return held_out(experiment, config.data.eval_split, seeds)
    if not experiment.task.labels:
        return {}
    counts = experiment.source(config.data.train_split).label_counts
    return {"label": spread_labels(np.ones(config.data.classes) if counts is None else counts, seeds)}


def held_out(experiment: Experiment, split: str, seeds) -> dict[str, np.ndarray]:
    """What images of a split would be given, image i for seed i: their captions or labels, and smaller versions."""
    given = experiment.task.given(examples(experiment, split, int(np.max(seeds)) + 1))
    rows = {name: np.asarray(value) for name, value in given.items()}
    return {name: value[np.asarray(seeds) % len(value)] for name, value in rows.items()}


def examples(experiment: Experiment, split: str, most: int) -> dict[str, np.ndarray]:
    """At most so many readable examples of a split, as a batch: always the same ones."""
    source = some(experiment.source(split), most)
    batch = next(evaluation_batches(source, source.size))
    return {name: rows[batch["valid"]] for name, rows in batch.items()}


def asked_condition(label: str | None, config, workdir, seeds) -> tuple[dict[str, np.ndarray], str]:
    """(condition, where its labels come from) for --label: a number, 'balanced', or None for the training set's."""
    classes = config.data.classes
    if config.task.name != "class":
        if label is not None:
            raise ValueError(f"--label={label}: this model is unconditional (task.name={config.task.name})")
        return {}, "none"
    if label == "balanced":
        return {"label": (seeds % classes).astype(np.int32)}, "balanced"
    if label is not None:
        if not label.isdecimal() or int(label) >= classes:
            raise ValueError(f"--label={label} must be 'balanced' or a number from 0 to {classes - 1}")
        return {"label": np.full(len(seeds), int(label), np.int32)}, "given"
    counts = records.last_start(workdir, "train").get("data", {}).get("label_counts")
    labels = spread_labels(counts or np.ones(classes), seeds)
    return {"label": labels}, "training set's" if counts else "uniform"


def draw(experiment: Experiment, config, params, seeds, condition: dict, settings, check=lambda: None) -> np.ndarray:
    """uint8 [n h w c]: image i of seeds[i] and the condition's i-th rows."""

    def images(seeds, condition):
        return as_pixels(experiment.sample(params, experiment.frozen(), seeds, condition, settings), seeds)

    return in_batches(experiment, config, images, (np.asarray(seeds, np.uint32), condition), check)


class NotFinite(ValueError):
    """Images that hold NaN or infinity."""


def as_pixels(drawn, seeds) -> np.ndarray:
    """uint8 of images [b h w c] in [-1, 1]. Raises NotFinite where one holds NaN."""
    drawn = np.asarray(drawn)
    if not np.isfinite(drawn).all():
        raise NotFinite(f"samples of seeds {seeds[0]} and on hold NaN: the weights, or the guidance, are bad")
    return to_uint8(drawn)


def in_batches(experiment: Experiment, config, call, rows, check=lambda: None):
    """call(*rows) over equal batches on the devices, the last padded: a tree of numpy arrays [n ..]."""
    n, mesh = len(jax.tree.leaves(rows)[0]), experiment.mesh
    size = sharding.round_up(min(config.sampling.batch_size, n), sharding.batch_parts(mesh))
    own = local_rows(size, **sharding.batch_share(mesh))
    results = []
    for first in range(0, n, size):
        check()
        part = (first + own).clip(max=n - 1)
        batch = sharding.put_batch(jax.tree.map(lambda leaf: leaf[part], rows), mesh)  # noqa: B023
        results.append(jax.tree.map(np.asarray, call(*batch)))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:n], *results)


def write_images(out, images, seeds, labels=None, prompts=(), columns=None) -> None:
    """The samples, and a grid of the first ones, with their prompts below where they have some."""
    write_samples(out, images, labels, seeds, prompts)
    shown = images[:GRID]
    grid = captioned_grid(shown, prompts[:GRID], columns) if prompts else make_grid(shown, columns)
    save_png(out / "grid.png", grid)


def write_samples(out, images, labels, seeds, prompts=()) -> None:
    """samples.npz, or numbered shards of at most SHARD_BYTES of pixels each."""
    more = {"prompts": np.array(prompts)} if prompts else {}
    labels = np.full(len(seeds), -1, np.int32) if labels is None else labels
    per_shard = max(1, SHARD_BYTES // images[0].nbytes)
    starts = range(0, len(images), per_shard)
    for shard, start in enumerate(starts):
        part = slice(start, start + per_shard)
        name = "samples.npz" if len(starts) == 1 else f"samples_{shard:05}_of_{len(starts):05}.npz"
        buffer = io.BytesIO()
        rows = {"images": images, "labels": labels, "seeds": seeds} | more
        np.savez(buffer, **{name: values[part] for name, values in rows.items()})
        write_atomic(out / name, buffer.getvalue())


SHARD_BYTES = 2 * 10**9
GRID = 64  # images in a grid
