"""Four families of generative models on the digits: one budget of parameters, one of time, one judge.

    python -m benchmarks.families [--out=DIR] [--seconds=300] [--seeds=3] [--quick]

Trains diffusion, VAE, GAN and autoregressive model by main.py, about 64,000 parameters each (a GAN's discriminator
counted) and `seconds` of CPU time each, all cores together, which others on the machine lengthen little; how many steps
that is, is measured first, by turns. Judges four checkpoints of each by the evaluation of configs/digits.py, and bits
per dimension where there are any. Writes families.json, families.md (the table) and families.svg (quality over time,
and samples) to a folder of its own for each budget of time, DIR/300_seconds. About an hour on 2 cores; --quick, in
minutes, shows that it runs and says no more. What is done is kept: the same command goes on after a kill.
"""

import functools
import importlib
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags

import drawing
from benchmarks.families_picture import picture
from experiment import build
from modes.model import load
from training.checkpoint import absolute
from training.metrics import write_json

OUT = flags.DEFINE_string("out", "runs/families", "where runs and results lie")
SECONDS = flags.DEFINE_float("seconds", 300.0, "CPU time of each training, all cores together", lower_bound=1)
SEEDS = flags.DEFINE_integer("seeds", 3, "trainings of each family", lower_bound=1)
QUICK = flags.DEFINE_bool("quick", False, "one training of 10 seconds each, fewer samples")

MARKS = 4  # checkpoints of a training that are judged
ROUNDS, TURN = 5, 8  # of the timing: turns of each family, steps in a turn
DRAWN = 250  # images of the timed sampling, in one batch
SAMPLES = 500  # judged at each mark
BITS_IMAGES = 32  # held-out images whose bits are counted there: a diffusion's bound takes 1000 network calls each


class Recipe(NamedTuple):
    """A config of the digits, the keys that bring it to the budget of parameters, and its evaluator of bits/dim."""

    config: str
    keys: dict
    bits: str = ""


RECIPES = {
    "diffusion": Recipe("digits", {"model.channels": 8}, "likelihood_vlb"),
    # Two groups: at 1x1 a group norm sees a group's channels alone, and of two values it leaves the sign.
    "VAE": Recipe(
        "digits_vae", {"model.channels": 8, "model.groups": 2, "model.multipliers": (1, 1, 1, 2)}, "likelihood"
    ),
    "GAN": Recipe("digits_gan", {"model.channels": 16}),
    "autoregressive": Recipe(
        "digits_autoregressive", {"model.channels": 48, "model.blocks": 2, "model.num_heads": 2}, "likelihood"
    ),
}
SHOWN = {  # column -> the evaluation's name of the number
    "Frechet ratio": "frechet/ratio",
    "read as their label": "svc/agreement",
    "nearest ratio": "neighbours/samples",
    "bits/dim": "bits/dim",
}
BITS = ("bits_per_dim/vlb", "bits_per_dim/elbo", "bits_per_dim/exact")


def config_of(recipe: Recipe):
    config = importlib.import_module(f"configs.{recipe.config}").get_config()
    config.update_from_flattened_dict(recipe.keys)
    return config


def kept(make):
    """make(folder) -> something for JSON, made once: the file of the function's name in the folder."""

    @functools.wraps(make)
    def made(folder: pathlib.Path):
        path = folder / f"{make.__name__}.json"
        if not path.exists():
            write_json(path, make(folder))
        return json.loads(path.read_text())

    return made


@kept
def pace(folder) -> dict[str, float]:
    """CPU seconds of a training step of each family, the median over turns."""
    running = {}
    for name, recipe in RECIPES.items():
        config = config_of(recipe)
        experiment = build(config)
        running[name] = [experiment.train_step, experiment.init(), experiment.batches(0)]
    found = {name: [] for name in RECIPES}
    for turn in range(ROUNDS + 1):
        for name, (step, state, batches) in running.items():
            began = time.process_time()
            for _ in range(TURN):
                state, _ = step(state, None, next(batches))
            jax.block_until_ready(state)
            running[name][1] = state
            if turn:  # the first compiles
                found[name].append((time.process_time() - began) / TURN)
    return {name: float(np.median(each)) for name, each in found.items()}


@kept
def sampling(folder) -> dict[str, dict]:
    """CPU milliseconds an image, network calls and the first images of each family's first training."""
    found = {}
    for name in RECIPES:
        model = load(folder / f"{name}_0")
        condition = {"label": np.arange(DRAWN, dtype=np.int32) % 10}
        draw = functools.partial(
            drawing.draw, model.experiment, model.config, model.weights.params, condition=condition
        )
        draw(seeds=np.arange(DRAWN), settings=model.settings)
        began = time.process_time()
        images = draw(seeds=np.arange(DRAWN), settings=model.settings)
        seconds = time.process_time() - began
        calls = model.experiment.calls(model.settings)
        doubled = 2 if model.settings.guidance is not None else 1
        found[name] = {"ms": 1e3 * seconds / DRAWN, "calls": calls * doubled, "images": images[:20].tolist()}
    return found


def main_py(*words, **keys) -> None:
    """Runs main.py with these flags and config keys. Raises CalledProcessError where it fails."""
    settings = [f"--config.{key}={value}" for key, value in keys.items()]
    subprocess.run([sys.executable, "main.py", *words, *settings], check=True)


def train(workdir: pathlib.Path, recipe: Recipe, seed: int, steps: int) -> None:
    if (workdir / "done.json").exists():
        return
    warmup = min(config_of(recipe).optim.warmup, steps // 10)
    keys = recipe.keys | {"seed": seed, "train.steps": steps, "optim.decay_steps": steps, "optim.warmup": warmup}
    keys |= {"checkpoint.every": steps // MARKS, "checkpoint.keep": MARKS, "log.every": steps // (2 * MARKS)}
    keys |= {"log.samples_every": 0, "log.validation_every": 0}
    main_py("--mode=train", f"--config=configs/{recipe.config}.py", f"--workdir={workdir}", **keys)


def judge(workdir: pathlib.Path, recipe: Recipe, steps: int) -> None:
    """Every checkpoint that is not judged yet."""
    if (workdir / f"evaluation/step_{steps:08}.json").exists():
        return
    samples, images = (SAMPLES // 2, BITS_IMAGES // 8) if QUICK.value else (SAMPLES, BITS_IMAGES)
    keys = {"evaluators": f"small_images,{recipe.bits}", "samples": samples, "likelihood_images": images}
    main_py("--mode=evaluate", "--watch", f"--workdir={workdir}", **{f"evaluation.{key}": v for key, v in keys.items()})


def numbers(path: pathlib.Path) -> dict[str, float]:
    return {name: result["value"] for name, result in json.loads(path.read_text())["results"].items()}


def outcome(workdir: pathlib.Path, seconds_a_step: float) -> list[dict]:
    """The numbers of one training at its marks, each with its time and, where there are any, its bits/dim."""
    points = []
    for path in sorted((workdir / "evaluation").glob("step_*.json")):
        step, found = int(path.stem.removeprefix("step_")), numbers(path)
        bits = next((found[name] for name in BITS if name in found), None)
        points.append({"step": step, "seconds": step * seconds_a_step, "bits/dim": bits, **found})
    return points


def sizes(recipe: Recipe) -> tuple[int, int]:
    """Parameters that are trained, and that are sampled with."""
    state = build(config_of(recipe)).abstract
    trained, used = state.params, next(iter(state.ema.values()))
    return size(trained), size(used)


def size(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def spread(values) -> str:
    """Mean and standard deviation over the seeds."""
    if values[0] is None:
        return "-"
    return f"{np.mean(values):.3g}" + (f" ± {np.std(values, ddof=1):.2g}" if len(values) > 1 else "")


def row(name: str, result: dict) -> list[str]:
    trained, used = result["parameters"]
    last = [points[-1] for points in result["runs"]]
    return [
        name,
        f"{trained:,}" + (f" ({used:,} sample)" if used != trained else ""),
        f"{last[0]['step']:,}",
        *(spread([point[key] for point in last]) for key in SHOWN.values()),
        f"{result['sampling']['ms']:.3g}",
        f"{result['sampling']['calls']}",
    ]


def table(report: dict) -> str:
    columns = ["parameters", "steps", *SHOWN, "ms an image", "network calls"]
    real = next(iter(report["families"].values()))["runs"][0][-1]
    rows = [row(name, result) for name, result in report["families"].items()]
    held_out = f"{real['svc/heldout_accuracy']:.3g}", f"{real['neighbours/heldout']:.3g}"
    rows.append(["real digits", "", "", "1", *held_out, "", "", ""])
    lines = [["", *columns], ["---"] * (len(columns) + 1), *rows]
    said = "**A quick run, which shows that all runs and no more.**\n\n" if report["quick"] else ""
    return said + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main(argv):
    del argv
    cache = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/langevin"))
    jax.config.update("jax_compilation_cache_dir", cache)  # main.py's own, so that nothing compiles twice
    seconds, seeds = (10.0, 1) if QUICK.value else (SECONDS.value, SEEDS.value)
    folder = pathlib.Path(absolute(OUT.value)) / ("quick" if QUICK.value else f"{seconds:g}_seconds")
    folder.mkdir(parents=True, exist_ok=True)
    steps = {name: MARKS * 2 * max(1, round(seconds / each / MARKS / 2)) for name, each in pace(folder).items()}
    for seed in range(seeds):
        for name, recipe in RECIPES.items():
            workdir = folder / f"{name}_{seed}"
            train(workdir, recipe, seed, steps[name])
            judge(workdir, recipe, steps[name])
    families = {}
    for name, recipe in RECIPES.items():
        runs = [outcome(folder / f"{name}_{seed}", pace(folder)[name]) for seed in range(seeds)]
        families[name] = {"parameters": sizes(recipe), "runs": runs, "sampling": sampling(folder)[name]}
    report = {"quick": QUICK.value, "seconds": seconds, "seeds": seeds, "families": families}
    (folder / "families.json").write_text(json.dumps(report, indent=1))
    (folder / "families.md").write_text(table(report))
    (folder / "families.svg").write_text(picture(report))
    print(table(report))


if __name__ == "__main__":
    app.run(main)
