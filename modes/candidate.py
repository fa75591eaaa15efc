"""A checkpoint under judgement, as evaluators see it: its samples, drawn once and kept in parts."""

import functools
import hashlib
import json
import time

import jax
import numpy as np
from etils import epath

import drawing
import workdir as records
from conditions import Prompt
from evaluation.features import CHUNK, Extract, gather
from evaluation.parts import Parts, draw_parts, load, progress, write_array
from models.text import batch_of
from modes.judge import Judge
from modes.weights import Weights
from plans import Settings
from training import hosts, sharding

PART = 250  # images in a file, in whole batches: what a kill can cost


class Candidate:
    """Weights and the settings of sampling, as evaluators see them."""

    def __init__(self, judge: Judge, weights: Weights, settings: Settings, seed: int, folder, check=lambda: None):
        self.judge, self.weights, self.settings, self.seed, self.check = judge, weights, settings, seed, check
        self.config, self.experiment, self.root = judge.config, judge.experiment, epath.Path(folder)
        self.seconds = None  # what sampling took, once it was done

    @functools.cached_property
    def condition(self) -> dict[str, np.ndarray]:
        """The conditions of the samples: evaluation.prompts in turn, or labels by evaluation.labels."""
        seeds = self.seed + np.arange(self.config.evaluation.samples)
        if self.judge.prompts:
            rows, _ = batch_of(self.experiment.text, [prompt.text for prompt in self.judge.prompts])
            return {name: row[np.arange(len(seeds)) % len(row)] for name, row in rows.items()}
        if self.config.evaluation.labels == "balanced":
            return drawing.asked_condition("balanced", self.config, self.judge.workdir, seeds)[0]
        return drawing.training_condition(self.experiment, self.config, seeds)

    @functools.cached_property
    def folder(self) -> epath.Path:
        """Where the samples lie, named by all that they depend on, so that others are never taken for them."""
        depends = {
            "config": {
                k: v for k, v in records.flatten(self.config).items() if not k.startswith(("log", "evaluation"))
            },
            "labels": self.config.evaluation.labels,
            "prompts": self.judge.prompts,
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
            return self.draw(self.seed + np.arange(start, stop), condition)

        parts = draw_parts(self.folder, section.samples, batch * max(1, PART // batch), sample)
        self.seconds = time.perf_counter() - began
        return parts

    def draw(self, seeds, condition: dict) -> np.ndarray:
        """uint8 images of these seeds and conditions, kept nowhere."""
        params, settings = self.weights.params, self.settings
        return drawing.draw(self.experiment, self.config, params, seeds, condition, settings, self.check)

    @property
    def prompts(self) -> list[Prompt]:
        """The prompt of each sample; [] without."""
        prompts = self.judge.prompts
        return [prompts[i % len(prompts)] for i in range(self.config.evaluation.samples)] if prompts else []

    def features(self, extract: Extract, network: str) -> np.ndarray:
        """Features of every sample [n d], a part at a time, kept beside the samples."""
        parts, found = self.samples, []
        for start in range(0, parts.n, CHUNK):
            path = self.folder / f"{network[:8]}_{start:08}.npy"
            if not path.exists():
                self.check()
                write_array(path, np.asarray(extract(parts.read(start, min(start + CHUNK, parts.n))).pool))
                hosts.agreed(True)  # waits until it is written
            found.append(load(path))
        return np.concatenate(found)

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
