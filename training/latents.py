"""Latent diffusion (Rombach et al. 2022): any task, on the latents of an autoencoder that is trained no further.

task = latent(class_conditional(shape=(64, 64, 3), ...), autoencoder)
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from training.tasks import Task


class Autoencoder(NamedTuple):
    """What lies between images and latents. encode(params, keys [b], x [b h w c]) -> z [b h/f w/f d]; decode back."""

    encode: Callable[[Any, jax.Array, jax.Array], jax.Array]
    decode: Callable[[Any, jax.Array], jax.Array]
    factor: int  # f
    channels: int  # d
    image_channels: int  # c
    abstract: Any  # shapes of the parameters
    load: Callable[[Any], Any]  # abstract parameters with shardings -> the parameters


def latent(task: Task, autoencoder: Autoencoder) -> Task:
    """The task on normalised latents, (z - mean) / std of each channel, by frozen['latent'] = {params, mean, std}.

    x0 is one draw of an image's latents, and `restore` decodes. Raises ValueError where the images do not divide.
    """
    height, width, channels = task.sample_shape
    factor = autoencoder.factor
    if height % factor or width % factor or channels != autoencoder.image_channels:
        raise ValueError(
            f"data.shape={task.sample_shape} does not fit latent.encoder, which takes {autoencoder.image_channels} "
            f"channels and sides that are multiples of {factor}"
        )

    def prepare(frozen, keys, batch, train):
        x, cond = task.prepare(frozen, keys, batch, train)
        own = frozen["latent"]
        z = autoencoder.encode(own["params"], jax.vmap(jax.random.fold_in, (0, None))(keys, LATENT), x)
        return (z - own["mean"]) / own["std"], cond

    def restore(frozen, x0):
        own = frozen["latent"]
        return task.restore(frozen, autoencoder.decode(own["params"], x0 * own["std"] + own["mean"]).clip(-1, 1))

    shape = (height // factor, width // factor, autoencoder.channels)
    return task._replace(prepare=prepare, restore=restore, sample_shape=shape)


def statistics(latents: Iterable[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, standard deviation) of each channel of batches of latents [b h w d], in float64.

    Raises ValueError for a channel that does not vary.
    """
    count, total, square = 0, 0.0, 0.0
    for part in latents:
        rows = np.asarray(part, np.float64).reshape(-1, part.shape[-1])
        count, total, square = count + len(rows), total + rows.sum(0), square + (rows**2).sum(0)
    mean = total / count
    std = np.sqrt(np.maximum(square / count - mean**2, 0))
    if not (std > 1e-6).all():
        raise ValueError(f"channel {int(std.argmin())} of the latents does not vary: the autoencoder is not trained")
    return tuple(map(float, mean)), tuple(map(float, std))


# Folded into an example's key, far from what the wrapped task draws from it.
LATENT = 2**32 - 9
