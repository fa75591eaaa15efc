"""What two settings of sampling do: the same seeds and the same prompts under each pair, as pictures and numbers.

    python -m tools.ablate --workdir=RUN --rows='threshold=static;dynamic(quantile=0.995)' --columns='guidance=1;5;20'
    python -m tools.ablate --workdir=SR --rows='aug_level=0;0.3' --columns='steps=10;50' --given=OUT/base4/samples.npz

Rows and columns are keys of config.sampling. What samples are given is that of held-out examples, or, for a stage of
super-resolution, the images (and prompts or labels) of a samples.npz that an earlier stage left: where samples come
out bad and held-out images do not, the stage before is at fault. Writes ablation.png, the first --shown images of each
pair, and ablation.json, for each pair over --num images:

    saturated      share of values at 0 or 255; of held-out images beside it
    read_as_asked  share that a classifier of the training images reads as their label, where there are labels
    frechet        distance of raw pixels to held-out images, up to 1,024 values an image
    psnr           to the true images, where they are known
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from absl import flags, logging

import conditions
import drawing
from evaluation.classifier import support_vectors
from evaluation.frechet import Moments, frechet_distance
from evaluation.images import captioned_grid, make_grid, pixels, save_png
from evaluation.super_resolution import psnr
from experiment import Experiment, build
from modes.weights import restored
from plans import Settings, settings_of
from tools.command import run
from training.checkpoint import absolute
from workdir import read_config

MOST_VALUES = 1024  # of an image, for raw-pixel distances


class Subject(NamedTuple):
    """What samples are given, and what they are measured against."""

    n: int
    given: dict[str, np.ndarray]
    labels: np.ndarray | None = None
    truth: np.ndarray | None = None


def define(add: dict) -> None:
    flags.DEFINE_string("workdir", None, "The training.", required=True, **add)
    flags.DEFINE_string("rows", None, "KEY=VALUE;VALUE;.. of config.sampling.", required=True, **add)
    flags.DEFINE_string("columns", None, "The same, of another key.", required=True, **add)
    flags.DEFINE_string("given", None, "samples.npz of the stage before; default held-out examples.", **add)
    flags.DEFINE_integer("num", 256, "Images of each pair that are measured.", lower_bound=2, **add)
    flags.DEFINE_integer("shown", 9, "Of these, in the picture.", lower_bound=1, **add)
    flags.DEFINE_integer("seed", 0, "Image i has seed SEED + i, in every pair.", lower_bound=0, **add)
    flags.DEFINE_integer("checkpoint", None, "Default the latest.", **add)
    flags.DEFINE_string("ema", None, "Default the config's first average.", **add)
    flags.DEFINE_string("out", None, "Default WORKDIR/ablation.", **add)


def axis(text: str, flag: str) -> list[tuple[str, Any]]:
    """'guidance=1;5' -> [('guidance', 1.0), ('guidance', 5.0)]."""
    key, _, values = text.partition("=")
    if key not in Settings._fields or not values:
        raise ValueError(f"--{flag}={text!r} is not KEY=VALUE;VALUE, with a KEY of {', '.join(Settings._fields)}")
    kinds = {"steps": int} | dict.fromkeys(("guidance", "guidance_rescale", "aug_level"), float)
    try:
        return [(key, kinds.get(key, str)(value.strip())) for value in values.split(";")]
    except ValueError:
        raise ValueError(f"--{flag}={text!r}: the values of {key} are numbers") from None


def subject(experiment: Experiment, config, path: str | None, num: int) -> Subject:
    if path is None:
        batch = drawing.examples(experiment, config.data.eval_split, num)
        given = {name: np.asarray(rows) for name, rows in experiment.task.given(batch).items()}
        labelled = experiment.source(config.data.eval_split).classes
        truth = batch["image"] if config.task.low_size else None
        return Subject(len(batch["image"]), given, batch["label"] if labelled else None, truth)
    if not config.task.low_size:
        raise ValueError("--given holds smaller images, which only a stage of super-resolution makes larger")
    with np.load(absolute(path)) as file:
        rows = {name: file[name][:num] for name in file.files}
    given = {"low_res": rows["images"]}
    if experiment.text:
        if "prompts" not in rows:
            raise ValueError(f"--given={path} has no prompts, and this stage takes text")
        given |= conditions.told(experiment, list(rows["prompts"]))[0]
    if experiment.task.labels:
        given["label"] = rows["labels"]
    return Subject(len(rows["images"]), given, rows["labels"] if rows["labels"].min() >= 0 else None)


def measures(experiment: Experiment, config, asked: Subject):
    """-> (images uint8 -> {name: value}), made once for all pairs."""
    held_out = drawing.examples(experiment, config.data.eval_split, 2000)["image"]
    classify, real = None, None
    if asked.labels is not None and len(np.unique(asked.labels)) > 1:
        train = drawing.examples(experiment, config.data.train_split, 5000)
        classify = support_vectors(train["image"], train["label"])
    if np.prod(held_out.shape[1:]) <= MOST_VALUES:
        real = Moments.of(pixels(held_out))

    def measure(images):
        found = {"saturated": saturated(images), "saturated_held_out": saturated(held_out)}
        if classify:
            found["read_as_asked"] = float(np.mean(classify(images) == asked.labels))
        if real:
            found["frechet"] = frechet_distance(Moments.of(pixels(images)), real)
        if asked.truth is not None:
            found["psnr"] = float(np.mean(psnr(images, asked.truth)))
        return found

    return measure


def saturated(images: np.ndarray) -> float:
    return float(np.mean((images == 0) | (images == 255)))


def ablate(options: dict) -> str:
    logging.set_verbosity(logging.ERROR)  # Orbax warns of its own options
    rows, columns = axis(options["rows"], "rows"), axis(options["columns"], "columns")
    workdir = Path(absolute(options["workdir"]))
    config = read_config(workdir)
    experiment = build(config)
    asked = subject(experiment, config, options["given"], options["num"])
    weights = restored(
        config, experiment, workdir, SimpleNamespace(ema=options["ema"], checkpoint=options["checkpoint"])
    )
    measure, seeds = measures(experiment, config, asked), options["seed"] + np.arange(asked.n)
    tiles, captions, found = [], [], []
    for row in rows:
        for column in columns:
            settings = settings_of(config)._replace(**dict((row, column)))
            images = drawing.draw(experiment, config, weights.params, seeds, asked.given, settings)
            found.append(dict((row, column)) | measure(images))
            tiles.append(make_grid(images[: options["shown"]], tile=32))
            captions.append(f"{row[0]} {row[1]}, {column[0]} {column[1]}")
    out = Path(absolute(options["out"])) if options["out"] else workdir / "ablation"
    save_png(out / "ablation.png", captioned_grid(np.stack(tiles), captions, len(columns), tile=1))
    settings = settings_of(config)._asdict() | {"checkpoint": weights.step, "ema": weights.name, "num": asked.n}
    report = {"command": sys.argv, "settings": settings | {"seed": options["seed"]}, "pairs": found}
    (out / "ablation.json").write_text(json.dumps(report, indent=2))
    return "\n".join(map(line, found)) + f"\n{out / 'ablation.png'}"


def line(found: dict) -> str:
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in found.items()
    )


if __name__ == "__main__":
    run(sys.argv, __doc__, define, ablate)
