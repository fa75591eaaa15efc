"""--mode=sample of a cascade: the images of each stage are what the next one makes larger."""

import time
from typing import NamedTuple

import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

import conditions
import drawing
import workdir as records
from conditions import Asked
from experiment import Experiment, build
from modes.weights import provenance, restored
from plans import Settings, settings_of
from training import hosts
from training.checkpoint import absolute
from training.metrics import write_json


class Stage(NamedTuple):
    """One model of a cascade, and how it is to sample."""

    name: str
    workdir: epath.Path
    config: ConfigDict  # of its training
    asked: ConfigDict  # its section of the cascade's config; what is unset there is as in its own

    @property
    def settings(self) -> Settings:
        """The stage's own, and over them what the cascade's config sets."""
        given = {key: self.asked[key] for key in Settings._fields if self.asked.get(key) is not None}
        return settings_of(self.config)._replace(**given)


def sample_cascade(config, flags) -> None:
    """Draws --num images, or one for each prompt, into OUT: each stage's into OUT/STAGE, and the last grid."""
    refuse_flags(flags)
    stages = read_stages(config)
    out = epath.Path(absolute(flags.out or flags.workdir))
    seeds = flags.seed + np.arange(conditions.number(flags))
    before, images, facts = [], None, {}
    for stage in stages:
        began = time.perf_counter()
        experiment = build(stage.config)
        asked = told(stage, experiment, flags, seeds, before)
        before.append((stage, asked))
        experiment = conditions.without_encoder(experiment, asked)
        given = asked.given if images is None else asked.given | {"low_res": images}
        weights = restored(stage.config, experiment, stage.workdir, stage.asked)
        images = drawing.draw(experiment, stage.config, weights.params, seeds, given, stage.settings)
        prompts, columns = [prompt.text for prompt in asked.prompts], asked.columns(stage.config.data.classes)
        drawing.write_images(out / stage.name, images, seeds, before[0][1].given.get("label"), prompts, columns)
        facts[stage.name] = {"workdir": str(stage.workdir)} | asked.facts()
        facts[stage.name] |= provenance(stage.config, experiment, weights, stage.settings, flags)
        seconds = time.perf_counter() - began
        logging.info("%s: %d images of %d x %d in %.1f s", stage.name, *images.shape[:3], seconds)
        del experiment, weights  # before the next stage's are read
    if hosts.writes():
        (out / stages[-1].name / "grid.png").copy(out / "grid.png", overwrite=True)
    write_json(out / "settings.json", {"num": len(seeds), "stages": facts})
    logging.info("%s", out / "grid.png")


def refuse_flags(flags) -> None:
    """Flags of one model, which a cascade has for each stage."""
    for name in ("sampler", "steps", "guidance", "checkpoint", "ema"):
        if flags[name].value is not None:
            raise ValueError(f"--{name} is of one model: for a cascade set --config.stages.STAGE.{name}")


def read_stages(config) -> list[Stage]:
    """The stages in the order of their sizes. Raises ValueError where one does not follow from the one before."""
    stages = []
    for name, asked in config.stages.items():
        workdir = epath.Path(absolute(asked.workdir))
        own = records.read_config(workdir)
        own.mesh.update(data=-1, fsdp=1, tensor=1)  # the devices here are not those of the training
        if asked.batch_size is not None:
            own.sampling.batch_size = asked.batch_size
        stages.append(Stage(name, workdir, own, asked))
    stages.sort(key=lambda stage: stage.config.data.shape[0])
    check_chain(stages)
    return stages


def check_chain(stages: list[Stage]) -> None:
    first, *others = stages
    if first.config.task.low_size:
        size = first.config.task.low_size
        raise ValueError(f"stage {first.name} makes images of {size} larger, and no stage of the config makes these")
    for before, after in zip(stages, others):
        made, low = tuple(before.config.data.shape), after.config.task.low_size
        if not low:
            raise ValueError(f"stages {before.name} and {after.name} both start from noise alone: one must be left out")
        factor = after.config.data.shape[0] // low
        wanted = (low, after.config.data.shape[1] // factor, after.config.data.shape[2])
        if wanted != made:
            raise ValueError(f"stage {after.name} takes images of {wanted}, and stage {before.name} makes {made}")


def told(stage: Stage, experiment: Experiment, flags, seeds, before: list[tuple[Stage, Asked]]) -> Asked:
    """What the images of a stage are given beside smaller ones: the prompts or labels of the stages before it."""
    if experiment.text:
        encoder = stage.config.text.encoder  # prompts are encoded once for stages of one encoder
        same = (asked for other, asked in before if "text_mask" in asked.given and other.config.text.encoder == encoder)
        return next(same, None) or conditions.of_flags(experiment, stage.config, stage.workdir, flags, seeds)
    if not before:
        return conditions.of_flags(experiment, stage.config, stage.workdir, flags, seeds)
    first = before[0][1]
    if not experiment.task.labels:
        return first._replace(given={})
    if "label" not in first.given:
        raise ValueError(f"stage {stage.name} takes labels, and the first stage has none")
    return first._replace(given={"label": first.given["label"]})
