"""Non-leaking augmentation: images are turned, stretched and moved, and the network is told how (EDM, appendix F.2).

task = augmented(unconditional(shape=(32, 32, 3), ...), probability=0.12)

Sampling tells it that nothing was done, so that what is drawn looks like the images as they are.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from training.tasks import Task

# The low-pass filter of the wavelet that halves and doubles images: Daubechies' symlet of order 6.
SYMLET = np.float32(
    [0.01540410932702737, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466]
    + [0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578]
    + [0.0017677118642428036, -0.007800708325034148]
)
LAG = 0.5  # the filter is not symmetric: at twice the size, pixels lie so much before their middle
LABELS = 9  # numbers that tell what was done
SCALES = 0.2  # deviation of log2 of a scale, and of a stretch
SHIFT = 0.125  # deviation of a shift, over the image's side


class Change(NamedTuple):
    """What is done to one image, each 0 where nothing is. The order is that of their effect."""

    mirror: jax.Array  # 0 or 1: left to right
    flip: jax.Array  # 0 or 1: upside down
    scale: jax.Array  # a normal draw: by 2^(SCALES scale)
    turn: jax.Array  # radians
    stretch: jax.Array  # a normal draw: by 2^(SCALES stretch) along the axis, and as much smaller across it
    axis: jax.Array  # radians; where the stretch lies
    shift: jax.Array  # [2] normal draws: by SHIFT of width and height


def augmented(task: Task, probability: float) -> Task:
    """The task with images that are changed in training, and 'augment' [b 9] in its condition.

    probability: of each change but the mirror, which is always drawn; in (0, 1]. A sample is told zeros, and needs to
    be given nothing. The null keeps it. Raises ValueError for another probability.
    """
    if not 0 < probability <= 1:
        raise ValueError(f"task.augment={probability} is a probability, in (0, 1]; 0 is none")

    def prepare(frozen, keys, batch, train):
        x0, cond = task.prepare(frozen, keys, batch, train)
        if not train:
            return x0, cond | nothing(len(x0))
        change = jax.vmap(lambda key: drawn(jax.random.fold_in(key, AUGMENT), probability))(keys)
        return changed(x0, change), cond | {"augment": jax.vmap(labels)(change)}

    def condition(frozen, keys, given):
        return task.condition(frozen, keys, given) | nothing(len(keys))

    def null(cond):
        return task.null({key: value for key, value in cond.items() if key != "augment"}) | {"augment": cond["augment"]}

    return task._replace(prepare=prepare, condition=condition, null=null)


def nothing(count: int) -> dict[str, jax.Array]:
    """What says of each image that it was not changed."""
    return {"augment": jnp.zeros((count, LABELS))}


def drawn(key: jax.Array, probability: float) -> Change:
    """A change of one image."""
    keys = jax.random.split(key, 4)
    happens = jax.random.bernoulli(keys[0], probability, (5,))
    coins, normals = jax.random.bernoulli(keys[1], 0.5, (3,)), jax.random.normal(keys[2], (4,))
    turn, axis = jax.random.uniform(keys[3], (2,), minval=-math.pi, maxval=math.pi)
    return Change(
        mirror=coins[0].astype(jnp.float32),
        flip=(coins[1] & happens[0]).astype(jnp.float32),
        scale=jnp.where(happens[1], normals[0], 0),
        turn=jnp.where(happens[2], turn, 0),
        stretch=jnp.where(happens[3], normals[1], 0),
        axis=jnp.where(coins[2], axis, 0),
        shift=jnp.where(happens[4], normals[2:], 0),
    )


def labels(change: Change) -> jax.Array:
    """[9] of one image, all 0 for no change."""
    along, across = jnp.cos(change.axis), jnp.sin(change.axis)
    return jnp.stack(
        [change.mirror, change.flip, change.scale, jnp.cos(change.turn) - 1, jnp.sin(change.turn)]
        + [change.stretch * along, change.stretch * across, *change.shift]
    )


def changed(x: jax.Array, change: Change) -> jax.Array:
    """The images [b h w c] after their changes, each leaf of which is [b ..].

    Pixels are read between those of the image at twice its size, and the result is halved again; beyond its edges it
    is mirrored, and beyond that 0.
    """

    def chosen(which, otherwise):
        return jnp.where(which[:, None, None, None] == 1, otherwise, x)

    x = chosen(change.mirror, x[:, :, ::-1])
    x = chosen(change.flip, x[:, ::-1])
    height, width = x.shape[1:3]
    margins = [(0, 0), (height - 1, height - 1), (width - 1, width - 1), (0, 0)]
    large = doubled(doubled(jnp.pad(x, margins, mode="reflect"), 1), 2)
    around = len(SYMLET) // 4  # pixels on each side that halving takes in
    size = (2 * (height + 2 * around), 2 * (width + 2 * around))
    read = jax.vmap(lambda image, change: between(image, sources(change, size, (height, width))))(large, change)
    return halved(halved(read, 1), 2)[:, around:-around, around:-around]


def sources(change: Change, size: tuple[int, int], image: tuple[int, int]) -> jax.Array:
    """Where each of size[0] x size[1] pixels of the changed image comes from, from the middle: [h w 2], x then y.

    In pixels at twice the size of the image, height x width.
    """
    rows, columns = (jnp.arange(n) + 0.5 - n / 2 + LAG for n in size)
    places = jnp.stack(jnp.meshgrid(columns, rows), axis=-1)
    moved = places - 2 * SHIFT * change.shift * jnp.array([image[1], image[0]])
    stretch, scale = jnp.exp2(SCALES * change.stretch), jnp.exp2(SCALES * change.scale)
    along = rotation(-change.axis) @ jnp.diag(jnp.stack([1 / stretch, stretch])) @ rotation(change.axis)
    return moved @ (rotation(change.turn) @ along / scale).T - LAG


def rotation(angle: jax.Array) -> jax.Array:
    return jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])


def between(image: jax.Array, places: jax.Array) -> jax.Array:
    """The image [h w c] at places [h' w' 2] from its middle, linear between pixels, 0 outside."""
    middle = [(side - 1) / 2 for side in image.shape[:2]]
    rows, columns = places[..., 1] + middle[0], places[..., 0] + middle[1]

    def channel(plane):
        return jax.scipy.ndimage.map_coordinates(plane, [rows, columns], order=1, mode="constant")

    return jax.vmap(channel, in_axes=2, out_axes=2)(image)


def doubled(x: jax.Array, axis: int) -> jax.Array:
    """x [b h w c] at twice its size along an axis."""
    return filtered(x, SYMLET[::-1], axis, padding=(len(SYMLET) // 2, len(SYMLET) // 2), every=1, between=2)


def halved(x: jax.Array, axis: int) -> jax.Array:
    """x [b h w c] at half its size along an axis."""
    return filtered(x, SYMLET, axis, padding=(len(SYMLET) // 2 - 1,) * 2, every=2, between=1)


def filtered(x: jax.Array, taps: np.ndarray, axis: int, padding: tuple[int, int], every: int, between: int):
    """x with taps laid over an axis: at every so manieth place, of x with its values so far apart."""
    planes = jnp.moveaxis(x, axis, -1)
    rows = planes.reshape(-1, 1, planes.shape[-1])
    rows = jax.lax.conv_general_dilated(rows, taps[None, None], (every,), [padding], lhs_dilation=(between,))
    return jnp.moveaxis(rows.reshape(*planes.shape[:-1], -1), -1, axis)


# Folded into an example's key, so that changes are drawn from nothing else's stream.
AUGMENT = 2**32 - 10
