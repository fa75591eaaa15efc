"""What is to be generated, given what: from a batch as the input pipeline yields it to (x0, cond), and back."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Cond = dict[str, jax.Array]


class Task(NamedTuple):
    """prepare(frozen, keys [b], batch, train) -> (x0 [b h w c], cond); null(cond) -> the cond of no condition.

    restore(frozen, x0) undoes what prepare did to the image: what sampling returns, in [-1, 1]. frozen are parameters
    that are not trained (an encoder's), None where there are none. sample_shape is x0's (h, w, c) in sampling.
    condition(frozen, keys [b], given) -> cond makes of what a sample is given, rows of arrays [b ..] by name, what the
    network is told; given(batch) is what a sample like these examples would be given. labels is the number of rows
    that a label embedding needs, the null label's included; 0 without labels.
    """

    prepare: Callable[[Any, jax.Array, dict[str, jax.Array], bool], tuple[jax.Array, Cond]]
    null: Callable[[Cond], Cond]
    restore: Callable[[Any, jax.Array], jax.Array]
    sample_shape: tuple[int, int, int]
    condition: Callable[[Any, jax.Array, dict[str, jax.Array]], Cond]
    given: Callable[[dict[str, jax.Array]], dict[str, jax.Array]]
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


def image_task(
    shape,
    flip: bool,
    drop: float,
    names: tuple[str, ...],
    null: Callable,
    labels: int = 0,
    encode: Callable | None = None,
) -> Task:
    """A task whose x0 is the image, and whose condition are the `names` of a batch, through encode(frozen, these)."""

    def given(batch):
        return {name: batch[name] for name in names if name in batch}

    def condition(frozen, keys, asked):
        return encode(frozen, given(asked)) if encode else given(asked)

    def prepare(frozen, keys, batch, train):
        flip_keys, drop_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        x0, cond = normalise(batch["image"]), condition(frozen, None, batch)
        x0 = flip_half(flip_keys, x0) if flip and train else x0
        return x0, drop_condition(drop_keys, cond, null(cond), drop) if drop and train else cond

    return Task(prepare, null, lambda frozen, x0: x0, shape, condition, given, labels)


def unconditional(shape: tuple[int, int, int], classes: int, drop: float, flip: bool) -> Task:
    """Images alone."""
    if drop:
        raise ValueError(f"task.drop={drop} has nothing to drop with task.name=unconditional; set it to 0")
    return image_task(shape, flip, drop, names=(), null=lambda cond: {})


def class_conditional(shape: tuple[int, int, int], classes: int, drop: float, flip: bool) -> Task:
    """cond = {'label' [b] int32}; the null label is `classes`, one past the last."""
    if classes < 1:
        raise ValueError("task.name=class needs data.classes, the number of labels; it is 0")
    return image_task(
        shape,
        flip,
        drop,
        names=("label",),
        null=lambda cond: {"label": jnp.full_like(cond["label"], classes)},
        labels=classes + (drop > 0),
    )


def text_conditional(shape: tuple[int, int, int], classes: int, drop: float, flip: bool, encode: Callable) -> Task:
    """cond = {'text' [b l d], 'text_mask' [b l]}, or 'tokens' for an encoder that is a part of the network.

    encode(frozen, the text part of a batch) -> cond. No text is zeros, as in Imagen, and an empty mask: one that stayed
    would tell the caption's length.
    """
    return image_task(
        shape,
        flip,
        drop,
        names=("tokens", "text", "text_mask"),
        null=lambda cond: jax.tree.map(jnp.zeros_like, cond),
        encode=encode,
    )


TASKS: dict[str, Callable[..., Task]] = {
    "unconditional": unconditional,
    "class": class_conditional,
    "text": text_conditional,
}
