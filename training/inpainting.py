"""Inpainting as a task: any task, told a part of the image and where it is.

task = inpainting(class_conditional(shape=(64, 64, 3), ...))
"""

import jax
import jax.numpy as jnp

from training.tasks import Task, normalise


def inpainting(task: Task) -> Task:
    """The task with 'known' [b h w c + 1] in its condition: the image, 0 where hidden, and the mask, 1 where known.

    In training each example has a mask of its own: a box, or the strokes of a brush, or all of it hidden, so that the
    network also draws freely. A sample is given 'image' [b h w c], uint8 or in [-1, 1], of which the hidden part does
    not matter, and 'mask' [b h w 1]. The null keeps both: guidance by a label or a text is towards it around the same
    known pixels. Source: GLIDE (Nichol et al. 2021), section 2.4.
    """

    def beside(image, mask):
        image = normalise(image) if image.dtype == jnp.uint8 else image
        return {"known": jnp.concatenate([image * mask, mask], axis=-1)}

    def prepare(frozen, keys, batch, train):
        x0, cond = task.prepare(frozen, keys, batch, train)
        return x0, cond | beside(x0, random_masks(derived(keys), x0.shape[1:3]))

    def condition(frozen, keys, given):
        return task.condition(frozen, keys, given) | beside(given["image"], given["mask"])

    def null(cond):
        rest = {key: value for key, value in cond.items() if key != "known"}
        return task.null(rest) | {"known": cond["known"]}

    def given(batch):
        image = jnp.asarray(batch["image"])
        keys = jax.vmap(jax.random.key)(jnp.arange(len(image)))
        return task.given(batch) | {"image": image, "mask": random_masks(keys, image.shape[1:3])}

    return task._replace(prepare=prepare, condition=condition, null=null, given=given)


def random_masks(keys: jax.Array, size: tuple[int, int]) -> jax.Array:
    """float32 [b h w 1], 1 where known, of keys [b]: a box hidden in 45 of 100, strokes in 45, all in 10."""
    return jax.vmap(lambda key: 1.0 - hidden(key, size))(keys)[..., None]


def hidden(key: jax.Array, size: tuple[int, int]) -> jax.Array:
    kind, box_key, strokes_key = jax.random.split(key, 3)
    u = jax.random.uniform(kind)
    some = jnp.where(u < 0.5, box(box_key, size), strokes(strokes_key, size))
    return (some | (u > 0.9)).astype(jnp.float32)


def box(key: jax.Array, size: tuple[int, int]) -> jax.Array:
    """bool [h w], true in a box with sides of a quarter to all of the image's, at a place where it lies inside."""
    u = jax.random.uniform(key, (2, 2))
    sides = jnp.round((0.25 + 0.75 * u[0]) * jnp.array(size))
    start = jnp.round(u[1] * (jnp.array(size) - sides))
    inside = [(start[i] <= jnp.arange(n)) & (jnp.arange(n) < start[i] + sides[i]) for i, n in enumerate(size)]
    return inside[0][:, None] & inside[1]


def strokes(key: jax.Array, size: tuple[int, int], count: int = 4) -> jax.Array:
    """bool [h w], true near one of `count` straight strokes between random points, of random widths up to a quarter."""
    u = jax.random.uniform(key, (count, 5))
    ends, width = u[:, :4].reshape(count, 2, 1, 1, 2), 0.03 + 0.1 * u[:, 4, None, None]
    places = jnp.stack(jnp.meshgrid(*((jnp.arange(n) + 0.5) / n for n in size), indexing="ij"), -1)
    along, offset = ends[:, 1] - ends[:, 0], places - ends[:, 0]
    share = jnp.clip(jnp.sum(offset * along, -1) / (jnp.sum(along**2, -1) + 1e-9), 0, 1)
    return (jnp.linalg.norm(offset - share[..., None] * along, axis=-1) < width).any(axis=0)


def derived(keys: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, MASKS)


# Folded into an example's key, so that the mask is drawn from nothing else's stream.
MASKS = 2**32 - 9
