"""From stage to stage: a smaller image as the condition of a larger one, resized and noised as in training.

Source: cascaded diffusion (Ho et al. 2021, section 4) and Imagen (Saharia et al. 2022, section 2.4, figure A.32).
"""

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.sampling import normal
from diffusion.schedules import SCHEDULES, clean_at_zero

# The paper's augmentation preserves variance and has a level in [0, 1]; the schedule between is not published.
AUGMENTATION = clean_at_zero(SCHEDULES["cosine"]())


def resize(x: Array, size: tuple[int, int]) -> Array:
    """Images [b h w c] in [-1, 1] at another size: bicubic, half-pixel centres, antialiased where they shrink.

    The one resize of training and sampling, down and up, and the kernel of the input pipeline's own. Clipped, since
    a cubic overshoots.
    """
    shape = (x.shape[0], *size, x.shape[3])
    return jnp.clip(jax.image.resize(x, shape, "cubic", antialias=True), -1, 1)


def augment(keys: Array, x: Array, level: Array) -> Array:
    """alpha x + sigma eps at the augmentation level [b] of each example; at level 0 x itself. keys [b], x [b h w c]."""
    alpha, sigma = AUGMENTATION.level(level.reshape(-1, 1, 1, 1))
    return alpha * x + sigma * normal(keys, x.shape[1:], x.dtype)
