"""--mode=sample: images into files."""

import time

import numpy as np
from absl import logging
from etils import epath

import conditions
import drawing
from experiment import build
from modes.cascade import sample_cascade
from modes.weights import asked_settings, provenance, restored
from training.checkpoint import absolute
from training.metrics import write_json


def sample(config, flags) -> None:
    """Draws --num images into OUT/samples.npz, grid.png and settings.json; of a cascade's config, stage by stage."""
    if "stages" in config:
        return sample_cascade(config, flags)
    workdir = epath.Path(absolute(flags.workdir))
    experiment = build(config)
    settings = asked_settings(config, flags)
    seeds = flags.seed + np.arange(conditions.number(flags))
    asked = conditions.asked(experiment, config, workdir, flags, seeds)
    experiment = conditions.without_encoder(experiment, asked)
    weights = restored(config, experiment, workdir, flags)
    out = epath.Path(absolute(flags.out)) if flags.out else workdir / "samples" / f"sample_{weights.step:08}"
    began = time.perf_counter()
    images = drawing.draw(experiment, config, weights.params, seeds, asked.given, settings)
    seconds = time.perf_counter() - began
    texts = [prompt.text for prompt in asked.prompts]
    drawing.write_images(out, images, seeds, asked.given.get("label"), texts, asked.columns(config.data.classes))
    facts = provenance(config, experiment, weights, settings, flags) | {"num": len(seeds), **asked.facts()}
    write_json(out / "settings.json", facts)
    logging.info("%d images in %.1f s (compilation included): %s", len(seeds), seconds, out / "grid.png")
