"""Digits in few steps: students beside their teacher at the same number of steps, and what a user would pick instead.

    python -m benchmarks.distillation --runs=runs [--picture=FILE.png]

Trains what is not there yet in RUNS, a command of main.py for each (configs/digits_distill.py), then prints a Markdown
table: samples read as their label by a classifier of real digits, Frechet distance and neighbours as in
docs/results.md, and the time of an image in batches of 250, the program compiled.
"""

import pathlib
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

import drawing
import langevin
from evaluation.images import make_grid, save_png
from evaluation.small_images import ImageSet, judge

RUNS = flags.DEFINE_string("runs", "runs", "folder of the workdirs")
SAMPLES = flags.DEFINE_integer("samples", 1000, "images that each row draws, seeds from 0", lower_bound=250)
PICTURE = flags.DEFINE_string("picture", "", "file for ten digits of each of SHOWN")

TEACHER = "digits_v"
STAGES = (8, 4, 2, 1)
BATCH, ROUNDS = 250, 3
COLUMNS = ("svc/agreement", "frechet/ratio", "neighbours/samples")


def trainings() -> dict[str, str]:
    """{workdir's name: words of configs/digits_distill.py}, each after those that it needs."""
    words, before = {TEACHER: "teacher"}, TEACHER
    for steps in STAGES:
        guided = ",guided" if before == TEACHER else ""
        words[f"digits_{steps}"] = f"of={path(before)},steps={steps}{guided}"
        before = f"digits_{steps}"
    return words | {"digits_consistency": f"consistency,of={path(TEACHER)}", "digits_untaught": "untaught"}


def path(name: str) -> pathlib.Path:
    return pathlib.Path(RUNS.value) / name


def train(name: str, words: str) -> None:
    if (path(name) / "done.json").exists():
        return
    config = f"--config=configs/digits_distill.py:{words}"
    subprocess.run([sys.executable, "main.py", config, f"--workdir={path(name)}"], check=True)


def rows():
    """(what, workdir's name, settings)."""
    yield "teacher, DDIM", TEACHER, {"steps": 50}
    for steps in STAGES:
        yield "teacher, DDIM", TEACHER, {"steps": steps}
        if steps > 2:
            yield "teacher, DPM-Solver++(2M)", TEACHER, {"steps": steps, "sampler": "dpmpp_2m", "grid": "logsnr"}
        yield "progressive", f"digits_{steps}", {"steps": steps}
        if steps < STAGES[0]:
            yield "consistency, distilled", "digits_consistency", {"steps": steps}
            yield "consistency, no teacher", "digits_untaught", {"steps": steps}


SHOWN = (
    ("teacher, DDIM", 50), ("teacher, DDIM", 4), ("progressive", 4), ("teacher, DDIM", 1), ("progressive", 1),
    ("consistency, distilled", 1), ("consistency, distilled", 2), ("consistency, no teacher", 2),
)  # fmt: skip


def seconds_per_image(model: langevin.Model, labels) -> float:
    """The least of ROUNDS draws of a batch."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        model.sample(BATCH, label=labels[:BATCH])
        found.append(time.perf_counter() - began)
    return min(found) / BATCH


def main(argv) -> None:
    del argv
    for name, words in trainings().items():
        train(name, words)
    models = {name: langevin.load(path(name)) for name in trainings()}
    experiment, config = models[TEACHER].experiment, models[TEACHER].config
    labels = drawing.training_condition(experiment, config, np.arange(SAMPLES.value))["label"]
    sources = [experiment.source(split) for split in ("train", "test")]
    batches = [source.read(np.arange(source.size)) for source in sources]
    real = [ImageSet(batch["image"], batch["label"]) for batch in batches]

    print("| | steps | read as their label | Frechet ratio | neighbours | ms/image |")
    print("|---|---|---|---|---|---|")
    shown = {}
    for what, name, settings in rows():
        model = models[name].using(**settings)
        images = model.sample(SAMPLES.value, label=labels)
        shown[what, settings["steps"]] = images
        values = {key: result.value for key, result in judge(ImageSet(images, labels), *real)}
        cells = [f"{values[key]:.3f}" for key in COLUMNS] + [f"{1000 * seconds_per_image(model, labels):.2f}"]
        print(f"| {what} | {settings['steps']} | " + " | ".join(cells) + " |", flush=True)
    if PICTURE.value:
        firsts = [np.flatnonzero(labels == label)[0] for label in range(10)]
        save_png(pathlib.Path(PICTURE.value), make_grid(np.concatenate([shown[key][firsts] for key in SHOWN]), 10, 32))


if __name__ == "__main__":
    app.run(main)
