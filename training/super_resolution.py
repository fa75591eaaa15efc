"""Super-resolution: any task at a higher resolution, told a smaller version of the image too.

task = super_resolution(class_conditional(shape=(28, 28, 1), ...), low_size=14)
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from diffusion import cascade
from training.tasks import Task, normalise


def super_resolution(task: Task, low_size: int, crop: int = 0) -> Task:
    """The task with 'low_res' [b h w c], at the image's size and noised, and 'aug_level' [b] in its condition.

    low_size: height of the smaller images. crop: side of the squares trained on, 0 for whole images; validation has the
    one in the middle, sampling is of whole images. What a batch lacks is made of its images, by the resize that
    sampling passes smaller images through, at an augmentation level drawn for each example. A sample is given 'low_res'
    [b h w c] at its own size, uint8 or in [-1, 1], and 'aug_level' [b]. The null keeps both.

    Raises ValueError where the sizes do not divide.
    """
    height, width, channels = task.sample_shape
    factor = checked_factor(task.sample_shape, low_size, crop)
    low_shape = (height // factor, width // factor)

    def condition(frozen, keys, given):
        small, level = given["low_res"], given["aug_level"]
        small = normalise(small) if small.dtype == jnp.uint8 else small
        clean = cascade.resize(small, (height, width))
        told = {"low_res": cascade.augment(derived(keys, NOISE), clean, level), "aug_level": level}
        return task.condition(frozen, keys, given) | told

    def prepare(frozen, keys, batch, train):
        x0, cond = task.prepare(frozen, keys, batch, train)
        clean = cascade.resize(cascade.resize(x0, low_shape), (height, width))
        if crop:
            offsets = draw_offsets(derived(keys, CROP), x0.shape[1:3], crop, factor, train)
            x0, clean = cut(x0, offsets, crop), cut(clean, offsets, crop)
        level = jax.vmap(jax.random.uniform)(derived(keys, LEVEL))
        told = {"low_res": cascade.augment(derived(keys, NOISE), clean, level), "aug_level": level}
        return x0, cond | told

    def null(cond):
        told = {key: cond[key] for key in ("low_res", "aug_level")}
        return task.null({key: value for key, value in cond.items() if key not in told}) | told

    def given(batch):
        return task.given(batch) | {"low_res": cascade.resize(normalise(batch["image"]), low_shape)}

    return task._replace(prepare=prepare, null=null, condition=condition, given=given)


def checked_factor(shape: Sequence[int], low_size: int, crop: int) -> int:
    """How many times larger the images are than those of low_size."""
    height, width, _ = shape
    if not 0 < low_size < height or height % low_size or width % (height // low_size):
        raise ValueError(f"task.low_size={low_size} must divide the height {height} of data.shape, and be below it")
    factor = height // low_size
    if crop < 0 or crop % factor or crop > min(height, width):
        most = min(height, width)
        raise ValueError(f"task.crop={crop} must be a multiple of the scale factor {factor}, at most {most}; 0: none")
    return factor


def draw_offsets(keys: jax.Array, sides: Sequence[int], crop: int, factor: int, random: bool) -> jax.Array:
    """Top left corners [b 2] of crops, multiples of the scale factor: so both images are cut on whole pixels."""
    places = jnp.array([(side - crop) // factor + 1 for side in sides])
    if not random:
        return jnp.broadcast_to((places - 1) // 2 * factor, (len(keys), 2))
    return factor * jax.vmap(lambda key: jax.random.randint(key, (2,), 0, places))(keys)


def cut(x: jax.Array, offsets: jax.Array, side: int) -> jax.Array:
    """Squares of each image [b h w c] -> [b side side c] at its own offset [b 2]."""
    return jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (*at, 0), (side, side, image.shape[-1])))(x, offsets)


def derived(keys: jax.Array, purpose: int) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, purpose)


# Folded into an example's key, far from what the wrapped task, or the sampler, draws from it.
NOISE, LEVEL, CROP = 2**32 - 6, 2**32 - 7, 2**32 - 8
