"""What an autoencoder keeps of an image, beside what a model makes: held-out images, their reconstructions, samples.

    python -m tools.reconstruct --workdir=runs/faces_vae --out=faces_vae.png
    python -m tools.reconstruct --workdir=runs/faces_latent --num=10 --out=faces_latent.png

The run is of family=vae, without labels, or of latent diffusion, whose autoencoder is taken. Three rows of --num
images: held-out ones, the same through encoder and decoder, and as many samples by the run's own settings. Prints the
reconstructions' mean PSNR over --judged held-out images.
"""

import sys
import types

import jax
import numpy as np
from absl import flags, logging
from etils import epath

import drawing
from autoencoders import ENCODERS, build_autoencoder
from evaluation.images import make_grid, save_png, to_uint8
from evaluation.super_resolution import psnr
from experiment import Experiment, build
from modes.weights import restored
from plans import settings_of
from tools import command
from training import sharding
from training.checkpoint import absolute
from training.tasks import normalise
from workdir import read_config


def define(add: dict) -> None:
    flags.DEFINE_string("workdir", None, "The run.", required=True, **add)
    flags.DEFINE_string("out", None, "The picture, a .png.", required=True, **add)
    flags.DEFINE_integer("num", 8, "Images in a row.", lower_bound=1, **add)
    flags.DEFINE_integer("judged", 256, "Held-out images of the PSNR, at most.", lower_bound=1, **add)


def draw(options: dict) -> str:
    workdir, n = absolute(options["workdir"]), options["num"]
    config = read_config(workdir)
    config.mesh.update(data=-1, fsdp=1, tensor=1)  # the devices here are not those of the training
    experiment = build(config)
    real = drawing.examples(experiment, config.data.eval_split, max(options["judged"], n))["image"]
    again = reconstructed(config, experiment, workdir, real)
    weights = restored(config, experiment, workdir, types.SimpleNamespace(checkpoint=None, ema=None))
    seeds = np.arange(n)
    condition = drawing.training_condition(experiment, config, seeds)
    drawn = drawing.draw(experiment, config, weights.params, seeds, condition, settings_of(config))
    rows = np.concatenate([real[:n], again[:n], drawn])
    save_png(epath.Path(options["out"]), make_grid(rows, columns=n))
    judged = psnr(again[: options["judged"]], real[: options["judged"]])
    return f"reconstructions of {len(judged)} held-out images: PSNR {judged.mean():.2f} dB; {options['out']}"


def reconstructed(config, experiment: Experiment, workdir: str, images: np.ndarray) -> np.ndarray:
    """uint8 images [n h w c] through encoder and decoder, image i with seed i."""
    autoencoder = build_autoencoder(config) if config.latent.encoder else ENCODERS["run"](workdir)
    like = sharding.laid_out(autoencoder.abstract, sharding.layout(experiment.mesh, autoencoder.abstract))
    params = autoencoder.load(like)

    @jax.jit
    def program(params, seeds, images):
        keys = jax.vmap(jax.random.key)(seeds)
        return autoencoder.decode(params, autoencoder.encode(params, keys, normalise(images)))

    def call(seeds, images):
        return to_uint8(np.asarray(program(params, seeds, images)))

    return drawing.in_batches(experiment, config, call, (np.arange(len(images), dtype=np.uint32), images))


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)  # Orbax warns of its own options
    command.run(sys.argv, __doc__, define, draw)
