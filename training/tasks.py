"""What is to be generated, given what: from a batch as the input pipeline yields it to (x0, cond), and back."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Cond = dict[str, jax.Array]


class Task(NamedTuple):
    """prepare(frozen, keys [b], batch, train) -> (x0 [b h w c], cond); null(cond) -> the cond of no condition.

    restore(frozen, x0) undoes what prepare did to the image: what sampling returns, in [-1, 1]. frozen are parameters
    that are not trained (an encoder's), None where there are none. sample_shape is x0's (h, w, c). labels is the number
    of rows that a label embedding needs, the null label's included; 0 without labels.
    """

    prepare: Callable[[Any, jax.Array, dict[str, jax.Array], bool], tuple[jax.Array, Cond]]
    null: Callable[[Cond], Cond]
    restore: Callable[[Any, jax.Array], jax.Array]
    sample_shape: tuple[int, int, int]
    labels: int = 0


def normalise(image: jax.Array) -> jax.Array:
    """uint8 in 0..255 -> float32 in [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1


def flip_half(keys: jax.Array, x: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability one half. keys [b], x [b h w c]."""
    chosen = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(chosen[:, None, None, None], x[:, :, ::-1], x)


def drop_condition(keys: jax.Array, cond: Cond, null: Cond, rate: float) -> Cond:
    """Replaces the condition of an example by `null` with probability `rate`, all its parts together. keys [b]."""
    chosen = jax.vmap(lambda key: jax.random.bernoulli(key, rate))(keys)

    def choose(kept, dropped):
        return jnp.where(chosen.reshape(-1, *[1] * (kept.ndim - 1)), dropped, kept)

    return jax.tree.map(choose, cond, null)


def image_task(shape, flip: bool, drop: float, condition: Callable, null: Callable, labels: int = 0) -> Task:
    """A task whose x0 is the image itself; condition(batch) -> cond."""

    def prepare(frozen, keys, batch, train):
        flip_keys, drop_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        x0, cond = normalise(batch["image"]), condition(batch)
        x0 = flip_half(flip_keys, x0) if flip and train else x0
        return x0, drop_condition(drop_keys, cond, null(cond), drop) if drop and train else cond

    return Task(prepare, null, lambda frozen, x0: x0, shape, labels)


def unconditional(shape: tuple[int, int, int], classes: int, drop: float, flip: bool) -> Task:
    """Images alone."""
    if drop:
        raise ValueError(f"task.drop={drop} has nothing to drop with task.name=unconditional; set it to 0")
    return image_task(shape, flip, drop, condition=lambda batch: {}, null=lambda cond: {})


def class_conditional(shape: tuple[int, int, int], classes: int, drop: float, flip: bool) -> Task:
    """cond = {'label' [b] int32}; the null label is `classes`, one past the last."""
    if classes < 1:
        raise ValueError("task.name=class needs data.classes, the number of labels; it is 0")
    return image_task(
        shape,
        flip,
        drop,
        condition=lambda batch: {"label": batch["label"]},
        null=lambda cond: {"label": jnp.full_like(cond["label"], classes)},
        labels=classes + (drop > 0),
    )


TASKS: dict[str, Callable[..., Task]] = {"unconditional": unconditional, "class": class_conditional}
