"""A checkpoint under judgement, and what checkpoints are judged with: each part made on first use, once."""

import functools
import hashlib
import json
import time
from collections.abc import Callable

import jax
import numpy as np
from etils import epath

import drawing
import workdir as records
from evaluation.features import CHUNK, KEEP, Extract, coloured, extractor, gather
from evaluation.images import FITTED, fitted
from evaluation.parts import Parts, draw_parts, progress
from evaluation.reference import MadeOf, Reference, cached
from experiment import Experiment
from input_pipeline.source import Source, some
from models import inception, towers
from models.towers import LoadedVision
from modes.weights import Weights
from plans import Settings
from training import hosts, sharding

PART = 250  # images in a file, in whole batches: what a kill can cost


class Judge:
    """The networks and real images of a config's evaluators. Raises ValueError in one line for what is not there."""

    def __init__(self, config, experiment: Experiment, workdir: epath.Path):
        self.config, self.experiment, self.workdir = config, experiment, workdir
        self.mesh = sharding.data_mesh(jax.local_devices())  # of several processes each judges all samples

    @functools.cached_property
    def frozen(self):
        return self.experiment.frozen()

    @functools.cached_property
    def inception(self) -> Extract:
        path = self.config.evaluation.inception
        if not path or not epath.Path(path).exists():
            raise ValueError(
                f"evaluation.inception={path!r} must be the path of {inception.FILE}, which FID is defined by; "
                "docs/evaluation.md says who published it"
            )
        return extractor(inception.apply, inception.load(path), self.mesh, self.config.evaluation.batch_size)

    @functools.cached_property
    def reference(self) -> Reference:
        """Statistics of the reference split, from the file of evaluation.reference, or made and put there."""
        section = self.config.evaluation
        default = self.workdir / f"reference_{section.reference_split}.npz"
        return self.reference_of(self.inception, inception.SHA256, inception.RESIZE, section.reference or default)

    @functools.cached_property
    def tower(self) -> LoadedVision:
        """DINOv2 or CLIP, of evaluation.tower."""
        if not self.config.evaluation.tower:
            raise ValueError("evaluation.tower is not set: a Hugging Face folder of dinov2 or clip, docs/evaluation.md")
        return towers.load_vision(self.config.evaluation.tower)

    @functools.cached_property
    def tower_extract(self) -> Extract:
        tower = self.tower
        extract = extractor(tower.apply, tower.params, self.mesh, self.config.evaluation.batch_size)
        return lambda images: extract(fitted(coloured(images), tower.side))

    @functools.cached_property
    def tower_reference(self) -> Reference:
        """As `reference`, of the tower's features; always a file of the workdir's, beside it."""
        path = self.workdir / f"reference_{self.config.evaluation.reference_split}_{self.tower.kind}.npz"
        return self.reference_of(self.tower_extract, self.tower.hash, FITTED.format(self.tower.side), path)

    def reference_of(self, extract: Extract, network: str, resize: str, path) -> Reference:
        source, data = self.real, self.config.data
        made_of = MadeOf(
            data=f"{data.name}:{data.dataset}:{source.digest}",
            split=self.config.evaluation.reference_split,
            n=source.size,
            shape=tuple(data.shape),
            preprocess=data.preprocess,
            resize=resize,
            network=network,
            keep=KEEP,
        )
        return cached(path, made_of, lambda: gather(readable(source), source.size, extract))

    @functools.cached_property
    def real(self) -> Source:
        """The images of the reference: all of the split, or evaluation.reference_images of it."""
        section = self.config.evaluation
        source = self.experiment.source(section.reference_split)
        return some(source, section.reference_images or source.size)


def readable(source: Source) -> Callable[[int, int], np.ndarray]:
    """(start, stop) -> images. Raises ValueError at one that cannot be read: a reference says what it was made of."""

    def images(start, stop):
        batch = source.read(np.arange(start, stop))
        if not batch["valid"].all():
            raise ValueError(f"the reference holds unreadable images ({', '.join(source.skipped()[:3])}): remove them")
        return batch["image"]

    return images


class Candidate:
    """Weights and the settings of sampling, as evaluators see them."""

    def __init__(self, judge: Judge, weights: Weights, settings: Settings, seed: int, folder, check=lambda: None):
        self.judge, self.weights, self.settings, self.seed, self.check = judge, weights, settings, seed, check
        self.config, self.experiment, self.root = judge.config, judge.experiment, epath.Path(folder)
        self.seconds = None  # what sampling took, once it was done

    @functools.cached_property
    def condition(self) -> dict[str, np.ndarray]:
        """The conditions of the samples, by evaluation.labels: as the training set has them, or balanced."""
        seeds = self.seed + np.arange(self.config.evaluation.samples)
        if self.config.evaluation.labels == "balanced":
            return drawing.asked_condition("balanced", self.config, self.judge.workdir, seeds)[0]
        return drawing.training_condition(self.experiment, self.config, seeds)

    @property
    def folder(self) -> epath.Path:
        """Where the samples lie, named by all that they depend on, so that others are never taken for them."""
        depends = {
            "config": {
                k: v for k, v in records.flatten(self.config).items() if not k.startswith(("log", "evaluation"))
            },
            "labels": self.config.evaluation.labels,
            "step": self.weights.step,
            "weights": self.weights.digest,
            "seed": self.seed,
            "settings": self.settings._asdict(),
            "devices": [device.device_kind for device in jax.devices()],
            "git": records.git_state(),
        }
        text = json.dumps(depends, sort_keys=True, default=str)
        return self.root / f"samples_{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"

    @functools.cached_property
    def samples(self) -> Parts:
        """evaluation.samples images, seed by seed; those that an earlier process drew are not drawn again."""
        section, began = self.config.evaluation, time.perf_counter()
        parts = sharding.batch_parts(self.experiment.mesh)
        batch = sharding.round_up(min(self.config.sampling.batch_size, section.samples), parts)

        def sample(start, stop):
            condition = {name: rows[start:stop] for name, rows in self.condition.items()}
            seeds = self.seed + np.arange(start, stop)
            params, settings = self.weights.params, self.settings
            return drawing.draw(self.experiment, self.config, params, seeds, condition, settings, self.check)

        parts = draw_parts(self.folder, section.samples, batch * max(1, PART // batch), sample)
        self.seconds = time.perf_counter() - began
        return parts

    @property
    def drawn(self) -> bool:
        return self.seconds is not None

    @functools.cached_property
    def images(self) -> np.ndarray:
        """All samples in memory."""
        return self.samples.read(0, self.samples.n)

    def statistics(self, extract: Extract, network: str):
        """Features of the samples, taken up where an earlier process left off."""
        parts = self.samples

        def read(start, stop):
            self.check()
            return parts.read(start, stop)

        so_far = progress(self.folder / f"{network[:8]}.npz", network)
        return gather(read, parts.n, extract, chunk=CHUNK, progress=so_far)

    def forget(self) -> None:
        """Removes the samples from the disk."""
        if hosts.writes() and self.folder.exists():
            self.folder.rmtree()
