"""--mode=sample: images into files."""

import time

import numpy as np
from absl import logging
from etils import epath

import drawing
from evaluation.images import make_grid, save_png
from experiment import build
from modes.weights import asked_settings, provenance, restored
from training.checkpoint import absolute
from training.metrics import write_json


def sample(config, flags) -> None:
    """Draws --num images into OUT/samples.npz, grid.png and settings.json."""
    workdir = epath.Path(absolute(flags.workdir))
    experiment = build(config)
    settings = asked_settings(config, flags)
    seeds = flags.seed + np.arange(flags.num)
    condition, source = drawing.asked_condition(flags.label, config, workdir, seeds)
    weights = restored(config, experiment, workdir, flags)
    out = epath.Path(absolute(flags.out)) if flags.out else workdir / "samples" / f"sample_{weights.step:08}"
    began = time.perf_counter()
    images = drawing.draw(experiment, config, weights.params, seeds, condition, settings)
    seconds = time.perf_counter() - began
    drawing.write_samples(out, images, condition.get("label"), seeds)
    columns = config.data.classes if source == "balanced" and config.data.classes <= 16 else None
    save_png(out / "grid.png", make_grid(images[:64], columns))
    facts = provenance(config, experiment, weights, settings, flags) | {"num": flags.num, "labels": source}
    write_json(out / "settings.json", facts)
    logging.info("%d images in %.1f s (compilation included): %s", flags.num, seconds, out / "grid.png")
