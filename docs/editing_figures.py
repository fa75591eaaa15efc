"""The pictures of docs/editing.md, drawn with a trained run of digits; two more with other trained runs.

python main.py --config=configs/digits.py --workdir=runs/digits
python -m docs.editing_figures --workdir=runs/digits [--superres=runs/digits_text8] [--colour=runs/emoji16]
"""

import pathlib

import numpy as np
from absl import app, flags
from PIL import Image, ImageDraw, ImageFont

import langevin
from diffusion.cascade import resize
from diffusion.editing.operators import grey
from evaluation.images import make_grid, to_uint8
from input_pipeline.digits import NAMES
from modes.edit_tasks import grids_of, side_by_side
from modes.pictures import save_animations, strip
from training.tasks import normalise

WORKDIR = flags.DEFINE_string("workdir", None, "a trained run of configs/digits.py", required=True)
SUPERRES = flags.DEFINE_string("superres", None, "a trained run of configs/digits_text.py:low=4, for its sheet")
COLOUR = flags.DEFINE_string("colour", None, "a trained run on colour images, for a sheet of colour from grey")

IMAGES = pathlib.Path(__file__).parent / "images"
TILE, LABELS, INK = 48, 190, (51, 51, 51)
METHODS = (
    "replacement",
    "repaint(jump=1, resamplings=10)",
    "projection",
    "covariance(solves=4)",
)


def sheet(name: str, rows: dict[str, np.ndarray]) -> None:
    """Labelled rows of uint8 images [n h w c], each row as long as it is."""
    grids = {title: make_grid(images, len(images), TILE) for title, images in rows.items()}
    height, width = max(grid.shape[0] for grid in grids.values()) + 6, max(grid.shape[1] for grid in grids.values())
    page = Image.new("RGB", (LABELS + width, height * len(grids)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for i, (title, grid) in enumerate(grids.items()):
        pen.text((4, i * height + grid.shape[0] / 2), title, INK, font, anchor="lm")
        page.paste(Image.fromarray(grid[..., 0] if grid.shape[2] == 1 else grid).convert("RGB"), (LABELS, i * height))
    page.save(IMAGES / name, optimize=True)
    print(IMAGES / name)


def one_of_each(source) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels): the first held-out digit of each class."""
    batch = source.read(np.arange(source.size))
    labels = np.unique(batch["label"])
    return batch["image"][[np.argmax(batch["label"] == label) for label in labels]], labels


def known(model, digits, labels) -> None:
    """Inpainting, uncropping and enlarging."""
    h, w = model.shape[:2]
    half, frame = np.zeros((h, w), bool), np.ones((h, w), bool)
    half[:, w // 2 :] = True
    frame[h // 4 : -h // 4, w // 4 : -w // 4] = False
    for name, hidden in ("inpaint", half), ("uncrop", frame):
        shown = np.where(hidden[..., None], np.uint8(128), digits)
        filled = {method: model.inpaint(digits, hidden, method, seed=1) for method in METHODS}
        told = {f"{METHODS[1].partition('(')[0]}, told the label": model.inpaint(digits, hidden, seed=1, label=labels)}
        sheet(f"editing_{name}.png", {"held-out digits": digits, "what is known": shown} | filled | told)
    small = digits.reshape(len(digits), h // 2, 2, w // 2, 2, -1).mean((2, 4)).round().astype(np.uint8)
    rows = {"held-out digits": digits, "means of 2 x 2": small.repeat(2, axis=1).repeat(2, axis=2)}
    for method in METHODS[2:]:
        rows[method] = model.enlarge(small, method, seed=1)
    sheet("editing_enlarge.png", rows)


def from_images(model, digits, labels) -> None:
    """Image to image, inversion, variations and interpolation."""
    rows = {"held-out digits": digits}
    for strength in (0.3, 0.5, 0.7):
        rows[f"strength {strength}, its label"] = model.img2img(digits, strength, seed=1, label=labels)
    for strength in (0.5, 0.7, 0.9):
        rows[f"strength {strength}, as a 3"] = model.img2img(digits, strength, seed=1, label=3)
    sheet("editing_img2img.png", rows)

    found = model.invert(digits, label=labels)
    back = model.using(guidance=None).generate(found, label=labels)
    rows = {"held-out digits": digits, "from its noise, its label": back}
    rows |= {f"from its noise, as a {label}": model.generate(found, label=label) for label in (0, 3, 8)}
    sheet("editing_invert.png", rows)

    turned = {"held-out digits": digits}
    for strength in (0.1, 0.3, 0.6):
        each = model.variations(digits, 1, strength, seed=1, label=labels)
        turned[f"noise turned by {strength}"] = each[:, 0]
    sheet("editing_variations.png", turned)

    walks = model.interpolate(digits[:5], digits[5:], frames=11)
    sheet("editing_interpolate.png", {f"{a} to {a + 5}": walk for a, walk in enumerate(walks)})


def process(model, digits, labels) -> None:
    """Films of noise and back, and of training."""
    noisy = model.noising(digits[:4], seed=1)
    Image.fromarray(strip(noisy, 11)[..., 0]).save(IMAGES / "noising.png", optimize=True)
    path, guesses = model.film(4, seed=1, label=labels[[0, 3, 5, 8]])
    shown = model.shown(path), to_uint8(np.concatenate([guesses, path[:, -1:]], axis=1))
    rows = np.stack(shown, axis=1).reshape(-1, *shown[0].shape[1:])
    Image.fromarray(strip(rows, 11)[..., 0]).save(IMAGES / "denoising.png", optimize=True)
    save_animations(IMAGES / "denoising", side_by_side(*shown))


def training(workdir: pathlib.Path) -> None:
    """The run's grids of samples, one after the other."""
    save_animations(IMAGES / "training", grids_of(workdir)[1])


def larger(model, digits, labels) -> None:
    """Super-resolution, each digit told its name."""
    low = np.asarray(to_uint8(resize(normalise(digits), (model.config.task.low_size,) * 2)))
    asked = [f"a {NAMES[label]}" for label in labels]
    rows = {f"seed {seed}": model.superres(low, seed=seed, prompt=asked) for seed in (1, 101, 201)}
    bicubic = to_uint8(resize(normalise(low), model.shape[:2]))
    sheet("editing_superres.png", {"held-out digits": digits, "4 x 4, bicubic": np.asarray(bicubic)} | rows)


def coloured(model) -> None:
    """Colour from grey, of held-out images."""
    held_out = model.experiment.source("test")
    images = held_out.read(np.arange(10))["image"]
    luma = np.asarray(to_uint8(grey().forward(normalise(images))))
    rows = {method: model.colour(luma, method, seed=1) for method in METHODS[2:]}
    sheet("editing_colour.png", {"held-out images": images, "grey": luma.repeat(3, axis=-1)} | rows)


def main(argv) -> None:
    model = langevin.load(WORKDIR.value)
    digits, labels = one_of_each(model.experiment.source("test"))
    known(model, digits, labels)
    from_images(model, digits, labels)
    process(model, digits, labels)
    training(pathlib.Path(WORKDIR.value))
    if SUPERRES.value:
        larger(langevin.load(SUPERRES.value), digits, labels)
    if COLOUR.value:
        coloured(langevin.load(COLOUR.value))


if __name__ == "__main__":
    app.run(main)
