"""The tasks of --mode=edit: what each makes of its files."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging
from etils import epath

from edits import Edit
from evaluation.images import make_grid, save_png, to_uint8
from modes import pictures
from modes.model import REPAINT, Model, known_mask
from training.checkpoint import absolute


class Job(NamedTuple):
    """What one command is asked for."""

    model: Model
    given: dict  # a label or a prompt, or neither
    flags: object
    out: epath.Path

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.model.shape

    def fit(self, image, shape=None) -> np.ndarray:
        return pictures.fit(image, shape or self.shape, self.model.config.data.preprocess)


class PerFile(NamedTuple):
    """A task that edits each file for itself.

    load(job, path, image) -> its arrays, all of one shape over the files; run(job, seeds, **rows) -> (pictures by
    suffix, uint8 [n h w c] or [n k h w c], numbers by name [n]); edit(job) -> what it costs.
    """

    load: Callable[[Job, Path, object], dict[str, np.ndarray]]
    run: Callable[..., tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]
    edit: Callable[[Job], Edit]


def written(job: Job, name: str, images: dict[str, np.ndarray]) -> dict:
    """Writes one input's pictures, several of a kind as one row."""
    files = {}
    for suffix, image in images.items():
        files[suffix or "output"] = f"{name}{suffix and '_' + suffix}.{job.flags.format}"
        picture = make_grid(image, columns=len(image)) if image.ndim == 4 else image
        pictures.save(job.out / files[suffix or "output"], picture, job.flags.format)
    return files


def output_names(paths: list[Path]) -> list[str]:
    """Names without suffix, relative to what all share; with it where two files differ in it alone."""
    root = paths[0].parent if len(paths) == 1 else Path(*shared_parts([path.parent.parts for path in paths]))
    stems = [path.relative_to(root).with_suffix("").as_posix() for path in paths]
    return [path.relative_to(root).as_posix() if stems.count(s) > 1 else s for s, path in zip(stems, paths)]


def shared_parts(folders: list[tuple[str, ...]]) -> list[str]:
    shortest = min(map(len, folders))
    same = [len({folder[i] for folder in folders}) == 1 for i in range(shortest)]
    return list(folders[0][: same.index(False) if False in same else shortest])


def readable(paths: list[Path], failed: dict[str, str]) -> Iterator[tuple[int, object]]:
    """(i, image) of those that can be edited; the others are said, and put into `failed`."""
    for i, path in enumerate(paths):
        try:
            yield i, pictures.read(path)
        except ValueError as error:
            say_failed(path, error, failed)


def say_failed(path: Path, error: ValueError, failed: dict[str, str]) -> None:
    failed[str(path)] = str(error)
    logging.error("%s %s", path, error)


def load_image(job: Job, path: Path, image) -> dict:
    return {"images": job.fit(image)}


def load_masked(job: Job, path: Path, image) -> dict:
    drawn = pictures.hidden(image.size, mask_of(job, path), box_of(job))
    mask = pictures.fit_hidden(drawn, job.shape, job.model.config.data.preprocess)
    known_mask(mask, (1, *job.shape))
    return {"images": job.fit(image), "hidden": mask}


def load_uncropped(job: Job, path: Path, image) -> dict:
    """The image in the box, and all around it hidden."""
    height, width, channels = job.shape
    y, x, h, w = box_of(job)
    mask = ~np.asarray(pictures.hidden((width, height), None, (y, x, h, w)), bool)
    known_mask(mask, (1, *job.shape))
    canvas = np.zeros(job.shape, np.uint8)
    canvas[y : y + h, x : x + w] = job.fit(image, (h, w, channels))
    return {"images": canvas, "hidden": mask}


def load_grey(job: Job, path: Path, image) -> dict:
    return {"grey": job.fit(image, (*job.shape[:2], 1))}


def load_small(job: Job, path: Path, image) -> dict:
    height, width, channels = job.shape
    factor = job.flags.factor
    if height % factor or width % factor:
        raise ValueError(f"--factor={factor} does not divide the model's images of {height} x {width}")
    return {"small": job.fit(image, (height // factor, width // factor, channels))}


def mask_of(job: Job, path: Path) -> Path | None:
    """--mask itself, or the file of the same name in that folder."""
    if not job.flags.mask:
        return None
    mask = Path(job.flags.mask).expanduser()
    if mask.is_dir():
        found = sorted(mask.glob(path.stem + ".*"))
        if not found:
            raise ValueError(f"has no mask: {mask} holds no {path.stem}.*")
        return found[0]
    if not mask.is_file():
        raise ValueError(f"has no mask: --mask={mask} is no file and no folder")
    return mask


def box_of(job: Job) -> tuple[int, ...] | None:
    return job.flags.box and tuple(int(part) for part in job.flags.box)


def inpaint(job: Job, seeds, images, hidden):
    filled = job.model.inpaint(images, hidden, job.flags.method or "", seeds, **job.given)
    return {"": filled, "input": np.where(hidden[..., None], np.uint8(128), images)}, {}


def colour(job: Job, seeds, grey):
    return {"": job.model.colour(grey, job.flags.method or "projection", seeds, **job.given)}, {}


def enlarge(job: Job, seeds, small):
    return {"": job.model.enlarge(small, job.flags.method or "projection", seeds, **job.given)}, {}


def img2img(job: Job, seeds, images):
    return {"": job.model.img2img(images, strength(job, 0.5), seeds, **job.given)}, {}


def invert(job: Job, seeds, images):
    """The image from its own noise under its own condition, and under another; the first one's error in [0, 1]^2."""
    source = (
        given_of(job.flags.source, None) if job.model.experiment.text is None else {"prompt": job.flags.source or ""}
    )
    found = job.model.invert(images, strength(job, 1.0), **source)
    back = job.model.using(guidance=None).generate(found, **source)
    error = np.mean((back / 255 - images / 255) ** 2, axis=(1, 2, 3))
    edited = {"": job.model.generate(found, **job.given)} if job.given else {}
    return edited | {"reconstruction": back}, {"reconstruction_mse": error}


def variations(job: Job, seeds, images):
    n = job.flags.num or 8
    return {"": job.model.variations(images, n, strength(job, 0.3), seeds, **job.given)}, {}


def strength(job: Job, default: float) -> float:
    return default if job.flags.strength is None else job.flags.strength


def interpolate(job: Job) -> dict:
    """From each image to the next: a strip of all, and one animation."""
    paths, failed = pictures.listing(job.flags.input), {}
    images = {i: job.fit(image) for i, image in readable(paths, failed)}
    if len(images) < 2:
        raise ValueError(f"--input={job.flags.input} has {len(images)} readable: interpolation takes two or more")
    used, images = [str(paths[i]) for i in images], np.stack([*images.values()])
    frames = job.flags.num or 9
    walks = job.model.interpolate(images[:-1], images[1:], frames, **job.given)
    save_png(job.out / "interpolation.png", pictures.strip(walks, frames))
    pictures.save_animations(job.out / "interpolation", enlarged(walks.reshape(-1, *walks.shape[2:])))
    return {"images": used, "frames": frames, "failed": failed}


def film(job: Job) -> dict:
    """Reverse denoising of --num seeds, x_t above its x0 prediction; with --input the forward noising of images too."""
    n = job.flags.num or 4
    seeds = job.flags.seed + np.arange(n)
    path, guesses = job.model.film(n, seeds, **job.given)
    shown = job.model.shown(path), to_uint8(np.concatenate([guesses, path[:, -1:]], axis=1))
    rows = np.stack(shown, axis=1).reshape(-1, *shown[0].shape[1:])
    save_png(job.out / "denoising.png", pictures.strip(rows, COLUMNS))
    pictures.save_animations(job.out / "denoising", side_by_side(*shown))
    failed = {}
    images = (
        [job.fit(image) for _, image in readable(pictures.listing(job.flags.input), failed)] if job.flags.input else []
    )
    if images:
        images = np.stack(images)
        noisy = job.model.noising(images, job.flags.seed)
        save_png(job.out / "noising.png", pictures.strip(noisy, COLUMNS))
        pictures.save_animations(job.out / "noising", side_by_side(noisy))
    return {"seeds": [int(seed) for seed in seeds], "failed": failed}


COLUMNS = 11


def side_by_side(*films: np.ndarray) -> np.ndarray:
    """Frames [k H W c]: a row for each example, a column for each film [n k h w c]."""
    frames = np.stack(films, axis=2).swapaxes(0, 1)  # k n films h w c
    return np.stack([make_grid(frame.reshape(-1, *frame.shape[2:]), len(films)) for frame in frames])


def enlarged(images: np.ndarray) -> np.ndarray:
    return np.stack([make_grid(image[None]) for image in images])


def training(job: Job) -> dict:
    """The run's sample grids over its steps, as an animation."""
    paths, grids = grids_of(epath.Path(absolute(job.flags.workdir)))
    pictures.save_animations(job.out / "training", grids)
    return {"grids": [path.name for path in paths]}


def grids_of(workdir) -> tuple[list, np.ndarray]:
    """(files of a run's sample grids in the order of their steps, those of the last one's size as uint8 [k h w 3])."""
    paths = sorted(workdir.glob("samples/step_*.png"))
    if not paths:
        raise ValueError(f"{workdir / 'samples'} holds no grid: train with log.samples_every > 0")
    grids = [pictures.read(Path(path)).convert("RGB") for path in paths]
    return paths, np.stack([np.asarray(grid) for grid in grids if grid.size == grids[-1].size])


def superres(job: Job) -> dict:
    """Each image made larger by the model's factor, at its own size."""
    paths, done, failed = pictures.listing(job.flags.input), [], {}
    names = output_names(paths)
    for i, image in readable(paths, failed):
        pixels = pictures.resized(image, (image.height, image.width, job.shape[2]))
        large = job.model.superres(pixels[None], seed=job.flags.seed + i, **job.given)[0]
        done.append(written(job, names[i], {"": large}) | {"input": str(paths[i]), "seed": job.flags.seed + i})
        logging.info("%d of %d", i + 1, len(paths))
    return {"images": done, "failed": failed}


def given_of(label: str | None, prompt: str | None) -> dict:
    if label is not None and not label.isdecimal():
        raise ValueError(f"label {label!r}: an edit takes one label, a number")
    return ({} if label is None else {"label": int(label)}) | ({} if prompt is None else {"prompt": prompt})


def holds(operator: str, job: Job) -> Edit:
    return Edit(job.flags.method or "projection", operator.format(factor=job.flags.factor))


def holds_inpaint(job: Job) -> Edit:
    return Edit() if job.model.config.task.inpaint else Edit(job.flags.method or REPAINT)


PER_FILE = {
    "inpaint": PerFile(load_masked, inpaint, holds_inpaint),
    "uncrop": PerFile(load_uncropped, inpaint, holds_inpaint),
    "colour": PerFile(load_grey, colour, functools.partial(holds, "grey()")),
    "enlarge": PerFile(load_small, enlarge, functools.partial(holds, "averaged(factor={factor})")),
    "img2img": PerFile(load_image, img2img, lambda job: Edit(strength=strength(job, 0.5))),
    "invert": PerFile(load_image, invert, lambda job: Edit(strength=strength(job, 1.0))),
    "variations": PerFile(load_image, variations, lambda job: Edit()),
}
WHOLE = {"superres": superres, "interpolate": interpolate, "film": film, "training": training}

# Which flags say something in which tasks; * marks what a task cannot be without.
TAKES = {
    "inpaint": ("input*", "mask", "box", "method"),
    "uncrop": ("input*", "box*", "method"),
    "colour": ("input*", "method"),
    "enlarge": ("input*", "method", "factor"),
    "img2img": ("input*", "strength"),
    "invert": ("input*", "strength", "source"),
    "variations": ("input*", "strength", "num"),
    "superres": ("input*",),
    "interpolate": ("input*", "num"),
    "film": ("input", "num"),
    "training": (),
}
