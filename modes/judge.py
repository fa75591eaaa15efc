"""What checkpoints are judged with: networks, real images and prompts, each loaded on first use, once."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

import conditions
from conditions import Prompt
from evaluation.clip_score import tokenizer
from evaluation.features import KEEP, Extract, coloured, extractor, gather
from evaluation.images import FITTED, fitted
from evaluation.prompts import coco_captions
from evaluation.reference import MadeOf, Reference, cached
from experiment import Experiment
from input_pipeline.source import Source, some
from models import inception, towers
from models.towers import LoadedVision
from training import sharding


class Clip(NamedTuple):
    """CLIP's two towers, as the score takes them: images -> a tuple with pool [n d], texts -> [n d]."""

    extract: Extract
    encode: Callable[[list[str]], np.ndarray]
    hash: str
    resize: str


def load_clip(folder: str, mesh, batch_size: int) -> Clip:
    vision, text = towers.load_vision(folder), towers.load_text(folder)
    tokenise, apply = tokenizer(folder, text.length), jax.jit(text.apply)
    extract = extractor(vision.apply, vision.params, mesh, batch_size)

    def encode(texts):
        tokens, found = tokenise(texts), []
        for start in range(0, len(tokens), batch_size):
            rows = np.arange(start, start + batch_size).clip(max=len(tokens) - 1)
            found.append(np.asarray(apply(text.params, tokens[rows])))
        return np.concatenate(found)[: len(tokens)]

    resize = FITTED.format(vision.side)
    return Clip(lambda images: extract(fitted(coloured(images), vision.side)), encode, vision.hash, resize)


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

    @functools.cached_property
    def prompts(self) -> list[Prompt]:
        """Those of evaluation.prompts, [] where it is not set: a COCO captions file (.json), or as --prompts takes."""
        section = self.config.evaluation
        if not section.prompts:
            return []
        if self.experiment.text is None:
            raise ValueError(f"evaluation.prompts: this model takes no text (task.name={self.config.task.name})")
        if section.prompts.endswith(".json"):
            return [Prompt(caption) for caption in coco_captions(section.prompts, section.samples)]
        return conditions.read_prompts(section.prompts)

    def asked_prompts(self) -> list[Prompt]:
        """The prompts. Raises ValueError where there are none."""
        if not self.prompts:
            raise ValueError("clip_score needs evaluation.prompts: a file of prompts, or COCO's captions (.json)")
        return self.prompts

    @functools.cached_property
    def clip(self) -> Clip:
        if not self.config.evaluation.clip:
            raise ValueError("clip_score needs evaluation.clip: a Hugging Face folder of CLIP, docs/evaluation.md")
        return load_clip(self.config.evaluation.clip, self.mesh, self.config.evaluation.batch_size)

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
