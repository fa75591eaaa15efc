"""Images larger than those that a network was trained on: its predictions on overlapping tiles, as one prediction."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.gaussian import Prediction
from diffusion.prediction import Denoise


def corners(size: int, tile: int, overlap: int) -> np.ndarray:
    """Where tiles of `tile` pixels begin that cover `size` of them, evenly, and overlap by `overlap` or more.

    Raises ValueError where the size is below the tile's, or tiles would not get on.
    """
    if size < tile or not 0 <= overlap < tile:
        raise ValueError(
            f"tiles: got {size} pixels, tiles of {tile} and an overlap of {overlap}; give tile <= pixels, "
            "overlap < tile"
        )
    count = 1 + -(-(size - tile) // (tile - overlap))
    return np.linspace(0, size - tile, count).round().astype(int)


def cut(x: Array, corner: Array, sides: tuple[int, int]) -> Array:
    """The tile of images [b h w c] -> [b *sides c] whose top left is corner [2]."""
    return jax.lax.dynamic_slice(x, (0, *corner, 0), (x.shape[0], *sides, x.shape[3]))


# MultiDiffusion (Bar-Tal et al. 2023) eq. (5), on predictions, so that any sampler walks the whole image
def tiled(
    denoise_at: Callable[[Array], Denoise], tops: np.ndarray, lefts: np.ndarray, sides: tuple[int, int]
) -> Denoise:
    """The mean of the tiles' predictions, each weighted by how far a pixel lies inside its tile.

    denoise_at(corner [2]) is the denoiser of the tile there, told what belongs to it. x0 and eps are averaged with the
    same weights, so that x_t = alpha x0 + sigma eps still holds. One tile at a time: memory of one, time of all.
    """
    found = np.stack(np.meshgrid(tops, lefts, indexing="ij"), -1).reshape(-1, 2)
    inside = np.multiply.outer(*(np.minimum(np.arange(side) + 1, side - np.arange(side)) for side in sides))
    weight = inside[None, :, :, None] / inside.max()

    def denoise(x: Array, t: Array) -> Prediction:
        def add(sums, corner):
            guess = denoise_at(corner)(cut(x, corner, sides), t)
            terms = guess.x0 * weight, guess.eps * weight, jnp.broadcast_to(weight, (1, *sides, 1))
            return jax.tree.map(lambda whole, tile: _add_at(whole, tile.astype(x.dtype), corner), sums, terms), None

        zeros = jnp.zeros_like(x)
        (x0, eps, total), _ = jax.lax.scan(add, (zeros, zeros, zeros[:1, :, :, :1]), jnp.asarray(found))
        return Prediction(x0 / total, eps / total)

    return denoise


def _add_at(whole: Array, tile: Array, corner: Array) -> Array:
    sides = tile.shape[1:3]
    return jax.lax.dynamic_update_slice(whole, cut(whole, corner, sides) + tile, (0, *corner, 0))
