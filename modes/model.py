"""A trained run as an object: what --mode=edit and a notebook use. langevin.py says how."""

import types
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

import conditions
import drawing
from diffusion.editing.operators import clipped_averaged, clipped_grey
from diffusion.editing.start import noisy, slerp
from diffusion.schedules import Schedule, clean_at_zero
from edits import Edit, Edits
from evaluation.images import require_uint8, to_uint8
from experiment import Experiment, build
from modes.weights import Weights, check_settings, restored
from plans import Settings, settings_of
from training.checkpoint import absolute
from training.tasks import normalise
from workdir import read_config

REPAINT = "repaint(jump=1, resamplings=10)"


def load(workdir, checkpoint: int | None = None, ema: str | None = None, **settings) -> "Model":
    """The run in `workdir`, sampled as its config says but for `settings`, such as steps=20 or guidance=3.0.

    checkpoint and ema choose the weights: the latest, and the config's first average. Raises ValueError where there
    are none.
    """
    workdir = epath.Path(absolute(workdir))
    config = read_config(workdir)
    check_settings(config, settings)
    experiment = build(config)
    weights = restored(config, experiment, workdir, types.SimpleNamespace(checkpoint=checkpoint, ema=ema))
    return Model(config, experiment, weights, settings_of(config)._replace(**settings))


class Inverted(NamedTuple):
    """Noise [n h w c] float32 at t = strength from which DDIM leads back to about the images."""

    noise: np.ndarray
    strength: float


class Model(NamedTuple):
    """A run's config, programs and weights, and how it is sampled."""

    config: object
    experiment: Experiment
    weights: Weights
    settings: Settings

    def using(self, **settings) -> "Model":
        """The same model, sampled with other settings: steps, sampler, guidance, grid, threshold."""
        check_settings(self.config, settings)
        return self._replace(settings=self.settings._replace(**settings))

    @property
    def edits(self) -> Edits:
        """The programs of editing. Raises ValueError for a model that has none."""
        if self.experiment.edits is None:
            own = "latents" if self.config.latent.encoder else f"of family={self.config.family}"
            raise ValueError(f"editing takes a model of family=diffusion on pixels, and this one's are {own}")
        return self.experiment.edits

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of its images."""
        return tuple(self.config.data.shape)

    def sample(self, n: int, seed=0, **given) -> np.ndarray:
        """n new images."""

        def program(params, frozen, seeds, rows, held, settings, edit):
            return drawing.as_pixels(self.experiment.sample(params, frozen, seeds, rows, settings), seeds)

        return self._walk(program, n, seed, given, {}, Edit())

    def inpaint(self, images, hidden, method: str = "", seed=0, **given) -> np.ndarray:
        """The images with what is hidden, true in [h w] or [n h w], made up; the rest is theirs to the bit.

        method: one of diffusion.editing.METHODS as it would be called, 'covariance(solves=8)'; by default RePaint, or
        none for a model that was trained to inpaint.
        """
        images = require_uint8(np.asarray(images), "images")
        mask, x0 = known_mask(hidden, images.shape), np.asarray(normalise(images))
        if self.config.task.inpaint:
            drawn = self.draw(len(images), seed, given | {"image": x0, "mask": mask}, {}, Edit())
        else:
            drawn = self.draw(len(images), seed, given, {"known": mask * x0, "mask": mask}, Edit(method or REPAINT))
        return np.where(mask > 0, images, drawn)

    def colour(self, grey, method: str = "projection", seed=0, **given) -> np.ndarray:
        """Colour images with these grey ones [n h w 1] as their luma."""
        grey = require_uint8(np.asarray(grey), "grey")
        if self.shape[2] != 3:
            raise ValueError(f"colour: this model's images have {self.shape[2]} channel; it takes one of 3")
        luma = np.asarray(normalise(grey))
        drawn = self.draw(len(grey), seed, given, {"known": luma}, Edit(method, "grey()"))
        return np.asarray(to_uint8(clipped_grey(normalise(drawn), luma)))

    def enlarge(self, small, method: str = "projection", seed=0, **given) -> np.ndarray:
        """Images of the model's size whose blocks have the colours of the small images' pixels as means."""
        small = require_uint8(np.asarray(small), "small")
        factor = self.shape[0] // small.shape[1]
        if factor < 2 or small.shape[1:] != (self.shape[0] // factor, self.shape[1] // factor, self.shape[2]):
            got, own = list(small.shape[1:]), list(self.shape)
            raise ValueError(f"small: got {got}; give {own} with both sides divided by 2, or 3, ..")
        means = np.asarray(normalise(small))
        drawn = self.draw(len(small), seed, given, {"known": means}, Edit(method, f"averaged(factor={factor})"))
        return np.asarray(to_uint8(clipped_averaged(factor, normalise(drawn), means)))

    def superres(self, images, overlap: int | None = None, seed=0, **given) -> np.ndarray:
        """Images of any size made larger by a stage of super-resolution, in tiles of the size that it was trained on.

        overlap: of tiles, in pixels of the images given; by default a quarter of a tile.
        """
        images, low = require_uint8(np.asarray(images), "images"), self.config.task.low_size
        if not low:
            raise ValueError("superres: this model is no stage of super-resolution (task.low_size=0); see enlarge")
        factor = self.shape[0] // low
        least = tuple(side // factor for side in self.shape[:2])
        margins = [(0, max(0, tile - side)) for tile, side in zip(least, images.shape[1:3])]
        padded = np.pad(images, ((0, 0), *margins, (0, 0)), "edge")
        overlap = min(least) // 4 if overlap is None else overlap
        settings, rows = self.asked(given), self.condition(given | {"low_res": padded}, len(images))

        def call(seeds, rows):
            params, frozen = self.weights.params, self.experiment.frozen()
            drawn = self.edits.enlarge(params, frozen, seeds, rows, settings, overlap)
            return drawing.as_pixels(drawn, seeds)

        large = drawing.in_batches(self.experiment, self.config, call, (seeds_of(seed, len(images)), rows))
        return large[:, : factor * images.shape[1], : factor * images.shape[2]]

    def img2img(self, images, strength: float = 0.5, seed=0, **given) -> np.ndarray:
        """The images made noisy up to t = strength and sampled from there (SDEdit): 1 leaves nothing of them."""
        held = {"image": np.asarray(normalise(require_uint8(np.asarray(images), "images")))}
        return self.draw(len(images), seed, given, held, Edit(strength=strength))

    def invert(self, images, strength: float = 1.0, **given) -> Inverted:
        """The noise of these images under this condition, without guidance."""
        x0, edit = np.asarray(normalise(require_uint8(np.asarray(images), "images"))), Edit(strength=strength)
        edits, settings = self.edits, self.deterministic(guidance=None).settings

        def noise(seeds, rows, images):
            return edits.invert(self.weights.params, self.experiment.frozen(), seeds, rows, images, settings, edit)

        rows = seeds_of(0, len(x0)), self.condition(given, len(x0)), x0
        return Inverted(drawing.in_batches(self.experiment, self.config, noise, rows), strength)

    def generate(self, inverted: Inverted, **given) -> np.ndarray:
        """Images from noise that was found, under this or another condition."""
        held, edit = {"noise": inverted.noise}, Edit(strength=inverted.strength)
        return self.deterministic().draw(len(inverted.noise), 0, given, held, edit)

    def interpolate(self, a, b, frames: int = 8, **given) -> np.ndarray:
        """[n frames h w c] from each image of a to its partner in b, along the circle between their noises."""
        ends = [np.repeat(self.invert(images, **given).noise, frames, axis=0) for images in (a, b)]
        shares = np.tile(np.linspace(0, 1, frames, dtype=np.float32), len(a))
        return self._around(np.asarray(slerp(*ends, shares)), len(a), given)

    def variations(self, images, n: int = 8, strength: float = 0.3, seed=0, **given) -> np.ndarray:
        """[k n h w c]: n images for each, their noise turned towards fresh noise by `strength` in [0, 1] of the way."""
        found = self.invert(images, **given).noise
        shape, scale = (n, *found.shape[1:]), found.std()
        fresh = [np.random.default_rng(each).normal(0, scale, shape) for each in seeds_of(seed, len(found))]
        fresh = np.concatenate(fresh).astype(np.float32)
        turned = slerp(np.repeat(found, n, axis=0), fresh, np.float32(strength))
        return self._around(np.asarray(turned), len(found), given)

    def film(self, n: int, seed=0, **given) -> tuple[np.ndarray, np.ndarray]:
        """While n images are drawn: x_t [n steps + 1 h w c] and its x0 predictions [n steps h w c], floats."""
        return self._walk(self.edits.film, n, seed, given, {}, Edit())

    def noising(self, images, seed=0) -> np.ndarray:
        """uint8 [n steps + 1 h w c]: the images at each time of the grid, from data to noise, with one noise each."""
        x0, schedule = normalise(require_uint8(np.asarray(images), "images")), self.schedule
        keys = jax.vmap(jax.random.key)(seeds_of(seed, len(images)))
        times = self.edits.times(self.settings, Edit())[::-1]
        path = [x0, *(noisy(keys, x0, schedule, t) for t in times[1:])]
        return self.shown(np.stack(path, axis=1)[:, ::-1])[:, ::-1]

    def shown(self, path: np.ndarray) -> np.ndarray:
        """uint8 of x_t along the grid [n steps + 1 h w c], scaled so that noise of any schedule has unit variance."""
        alpha, sigma = clean_at_zero(self.schedule).level(self.edits.times(self.settings, Edit()))
        scale = np.sqrt(np.asarray(alpha) ** 2 + np.asarray(sigma) ** 2).reshape(-1, 1, 1, 1)
        return to_uint8(path / scale)

    @property
    def schedule(self) -> Schedule:
        return self.edits.schedule(self.weights.params)

    def calls(self, method: str = "", strength: float = 1.0) -> tuple[int, int]:
        """How often the network is called for an edit, and how many of its derivatives are taken beside each call."""
        return self.edits.calls(self.settings, Edit(method, strength=strength))

    def draw(self, n: int, seed, given: dict, held: dict, edit: Edit) -> np.ndarray:
        """n images that are given a condition, held to what is known, or started from an image or from noise."""

        def program(params, frozen, seeds, *asked):
            return drawing.as_pixels(self.edits.draw(params, frozen, seeds, *asked), seeds)

        return self._walk(program, n, seed, given, held, edit)

    def deterministic(self, **settings) -> "Model":
        """Sampled by DDIM without noise, whose inverse `invert` is."""
        return self.using(sampler="ddim(eta=0.0)", **settings)

    def asked(self, given: dict) -> Settings:
        """The settings, without guidance where there is no condition to be guided by."""
        return self.settings if given.keys() - {"image", "mask"} else self.settings._replace(guidance=None)

    def condition(self, given: dict, n: int) -> dict[str, np.ndarray]:
        """n rows of what a sample is given: 'label' or 'prompt' of all or of each, anything else as rows by name.

        Raises ValueError for a label or a prompt that is missing, or that the model does not take.
        """
        if self.config.task.low_size and "low_res" not in given:
            raise ValueError("this model is a stage of super-resolution: use superres")
        if self.config.task.inpaint and "mask" not in given:
            raise ValueError("this model was trained to inpaint: use inpaint or uncrop")
        rows, encoder = {name: value for name, value in given.items() if name != "prompt"}, self.experiment.text
        if "prompt" in given:
            if encoder is None:
                raise ValueError("prompt: this model takes no text")
            texts = [given["prompt"]] * n if isinstance(given["prompt"], str) else list(given["prompt"])
            return rows | conditions.told(self.experiment, texts)[0]
        if encoder and "text_mask" not in given:
            raise ValueError("this model takes text: give a prompt, '' for none")
        classes = self.config.data.classes if self.experiment.task.labels else 0
        if "label" not in given and not classes:
            return rows
        if "label" not in given and not self.config.task.drop:
            raise ValueError(f"this model always had a label in training (task.drop=0): give one, 0 to {classes - 1}")
        labels = np.broadcast_to(np.asarray(given.get("label", classes), np.int32), (n,))
        if "label" in given and not np.all((labels >= 0) & (labels < classes)):
            raise ValueError(f"label {given['label']}: give 0 to {classes - 1}" if classes else "label: it has none")
        return rows | {"label": labels}

    def _around(self, noise: np.ndarray, n: int, given: dict) -> np.ndarray:
        """[n k h w c] generated from noise [n k h w c], flat, under the condition of each of the n."""
        frames = len(noise) // n
        rows = {name: np.repeat(value, frames, axis=0) for name, value in self.condition(given, n).items()}
        rows = rows if given else {}
        drawn = self.using(guidance=None).generate(Inverted(noise, 1.0), **rows)
        return drawn.reshape(n, frames, *drawn.shape[1:])

    def _walk(self, program, n: int, seed, given: dict, held: dict, edit: Edit):
        settings = self.asked(given)

        def call(seeds, rows, held):
            return program(self.weights.params, self.experiment.frozen(), seeds, rows, held, settings, edit)

        rows = seeds_of(seed, n), self.condition(given, n), held
        return drawing.in_batches(self.experiment, self.config, call, rows)


def seeds_of(seed, n: int) -> np.ndarray:
    return (seed if np.ndim(seed) else seed + np.arange(n)).astype(np.uint32)


def known_mask(hidden, shape) -> np.ndarray:
    """float32 [n h w 1], 1 where known. Raises ValueError for another size, or where all or nothing is hidden."""
    hidden = np.asarray(hidden, bool)
    if hidden.shape[-2:] != shape[1:3] or hidden.ndim not in (2, 3):
        raise ValueError(f"the mask is {list(hidden.shape[-2:])}, the image {list(shape[1:3])}: give them one size")
    hidden = np.broadcast_to(hidden, shape[:3])
    for what, wrong in ("all", hidden.all(axis=(1, 2))), ("nothing", ~hidden.any(axis=(1, 2))):
        if wrong.any():
            raise ValueError(f"the mask hides {what} of image {np.flatnonzero(wrong)[0]}: hide a part of it")
    return 1 - hidden[..., None].astype(np.float32)
