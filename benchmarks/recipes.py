"""Every recipe at one small size on the same data: real digits, 8x8, as many images each, judged alike.

    python -m benchmarks.recipes --workdir=runs/recipes     # all of them, or --only=edm,dit; goes on where it was
    python main.py --config=benchmarks/recipes.py:edm --workdir=runs/recipes/edm     # one of them by hand

Each is a config of configs/ under the rule that `scaled` is: the recipe keeps its mathematics and its kind of network,
and takes the rest from configs/digits.py. Prints a Markdown table and writes grid.png, ten pairs of digits a recipe.
"""

import json
import math
import pathlib

import jax
import numpy as np
from absl import app, flags
from PIL import Image, ImageDraw

import drawing
from configs import base, cifar10, digits, dit, edm, edm2, iddpm, imagenet64, sid2, simple_diffusion
from experiment import build
from modes.evaluate import evaluate
from modes.train import train
from plans import settings_of

# By name in the table: the module, and its words.
RECIPES = {
    "ddpm": (cifar10, ""),
    "iddpm": (iddpm, ""),
    "iddpm_vlb": (iddpm, "vlb"),
    "adm": (imagenet64, ""),
    "edm": (edm, ""),
    "edm_adm": (edm, "imagenet64"),
    "edm2": (edm2, ""),
    "simple": (simple_diffusion, ""),
    "sid2": (sid2, ""),
    "dit": (dit, "pixels"),
}
KINDS = {
    "unet": dict(channels=16, groups=4),
    "u_vit": dict(channels=16, groups=4, middle=4),
    "dit": dict(channels=64, blocks=4),
}
STEPS, BATCH, CALLS = 4000, 64, 50  # updates, images in each, and at most so many sampling steps


def scaled(config):
    """The one rule. Kept: the kind of network, its conventions, dropout up to .1; schedule, prediction, weighting,
    loss, times; augmentation; sampler, grid, threshold; b1, b2, epsilon; EDM2's rate and its decay.

    From configs/digits.py: data, labels of which a tenth is dropped, the average, a rate of 2e-3 with its warm-up, then
    a cosine to 0, and clipping, without which the bound alone learns nothing here: its first gradients are a hundred
    times the later ones, and Adam remembers them for thousands of steps. Set here: STEPS of BATCH; at most CALLS
    sampling steps, without guidance; networks of two levels of 16 and 32 channels, a block each, attention at 4x4 of 16
    channels a head or of as many heads as there are; transformers of four blocks, DiT's of width 64 with patches of 2.
    In proportion to STEPS: where EDM2's decay begins.
    """
    steps, small = config.train.steps, digits.get_config()
    config.data.update(small.data.to_dict())
    config.task.update(name="class", drop=0.1, flip=False, low_size=0)
    model = config.model
    base.tiny_network(model, 8)
    model.update(dropout=min(model.dropout, 0.1), dtype="float32", remat="none")
    model.update(KINDS.get(model.name, dict(channels=16)))
    rate = config.optim.lr if config.optim.root_from else small.optim.lr
    config.optim.root_from = math.ceil(config.optim.root_from * STEPS / steps)
    config.optim.update(name="adam", lr=rate, warmup=small.optim.warmup, weight_decay=0.0, clip=small.optim.clip)
    config.optim.decay_steps = 0 if config.optim.root_from else STEPS
    config.ema.update(decays=small.ema.decays, warmup=True, ramp=0.0, sigma_rels=(), snapshot_every=0)
    config.train.update(steps=STEPS, batch_size=BATCH)
    config.checkpoint.update(every=1000)
    config.log.update(every=50, samples_every=0, validation_every=0)
    config.sampling.update(steps=min(config.sampling.steps, CALLS), guidance=None, batch_size=250)
    config.evaluation.update(evaluators=("small_images",), samples=1000, keep_samples=True)
    return config


def get_config(arg="ddpm"):
    """A recipe by its name in RECIPES, scaled."""
    module, words = RECIPES[arg]
    return scaled(module.get_config(words))


def run(name: str, folder: pathlib.Path) -> None:
    """Trains and judges one recipe, as far as that is not done yet."""
    if not (folder / "done.json").exists():
        train(get_config(name), asked(folder))
    if not (folder / "evaluation.json").exists():
        evaluate(get_config(name), asked(folder))


def asked(folder: pathlib.Path) -> flags.FlagValues:
    """main.py's flags, none of them given but the workdir."""
    found = flags.FlagValues()
    flags.DEFINE_string("workdir", str(folder), "", flag_values=found)
    flags.DEFINE_integer("seed", 0, "", flag_values=found)
    for name in ("watch", "allow_config_change"):
        flags.DEFINE_bool(name, False, "", flag_values=found)
    for name in ("checkpoint", "ema", "sampler", "steps", "guidance", "out"):
        flags.DEFINE_string(name, None, "", flag_values=found)
    found.mark_as_parsed()
    return found


def row(name: str, folder: pathlib.Path) -> str:
    config = get_config(name)
    experiment = build(config)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(experiment.abstract.params))
    results = json.loads((folder / "evaluation.json").read_text())["results"]
    keys = ("svc/agreement", "frechet/ratio", "neighbours/samples", "neighbours/heldout")
    share, ratio, near, real = (results[key]["value"] for key in keys)
    calls = experiment.calls(settings_of(config))
    return f"| {name} | {parameters:,} | {calls} | {share:.3f} | {ratio:.2f} | {near:.3f} ({real:.3f}) |"


def picture(folders: dict[str, pathlib.Path], path: pathlib.Path, side: int = 24) -> None:
    """Two of each class in a row for each recipe, with its name."""
    sheet = Image.new("L", (96 + 20 * (side + 2), len(folders) * (side + 8)), 255)
    draw = ImageDraw.Draw(sheet)
    for i, (name, folder) in enumerate(folders.items()):
        parts = sorted(folder.glob("evaluation/samples_*/part_*.npy"))
        images = np.concatenate([np.load(part) for part in parts])
        config = get_config(name)
        labels = drawing.training_condition(build(config), config, np.arange(len(images)))["label"]
        firsts = [np.flatnonzero(labels == label)[:2] for label in range(10)]
        draw.text((4, i * (side + 8) + 6), name, fill=0)
        for j, k in enumerate(np.concatenate(firsts)):
            image = Image.fromarray(images[k, :, :, 0]).resize((side, side), Image.NEAREST)
            sheet.paste(image, (96 + j * (side + 2), i * (side + 8)))
    sheet.save(path)


def main(argv) -> None:
    del argv
    root = pathlib.Path(FLAGS.workdir)
    folders = {name: root / name for name in FLAGS.only}
    for name, folder in folders.items():
        run(name, folder)
    print("| recipe | parameters | network calls | read as their label | Frechet ratio | neighbours (real) |")
    print("|---|---|---|---|---|---|")
    for name, folder in folders.items():
        print(row(name, folder), flush=True)
    picture(folders, root / "grid.png")


if __name__ == "__main__":
    FLAGS = flags.FLAGS
    flags.DEFINE_string("workdir", "runs/recipes", "Where each recipe has a folder.")
    flags.DEFINE_list("only", list(RECIPES), "Recipes by name.")
    app.run(main)
