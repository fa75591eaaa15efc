"""The FID network: InceptionV3 as TensorFlow released it on 2015-12-05, for inference.

    params = load("pt_inception-2015-12-05-6726825d.pth")
    pool, logits, spatial = apply(params, images)     # uint8 b h w 3

Szegedy et al. 2015 (https://arxiv.org/abs/1512.00567), with that graph's own choices: FID, KID and the
Inception score are defined by it, and no later InceptionV3 gives their numbers. Blocks bear the names
of the published port, so that weights move by name; each batch norm is folded into its convolution.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from models import torch_files

FILE = "pt_inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIDE = 299
RESIZE = f"TF1 bilinear to {SIDE}"
NORM_EPS = 1e-3


class Outputs(NamedTuple):
    """What the numbers are made of, float32."""

    pool: jax.Array  # [b 2048] means over the last 8 x 8 activations: FID, KID, precision and recall
    logits: jax.Array  # [b 1008] without the bias, as the Inception score has always had it
    spatial: jax.Array  # [b 17*17*7] the first channels of the graph's mixed_6/conv: sFID


def tf1_bilinear(x, size: int):
    """TensorFlow 1's bilinear resize of float32 b h w c to size x size.

    Output pixel i reads position i * length / size: no half-pixel centres, and no antialiasing where
    it shrinks. Every other rule gives another FID.
    """
    for axis in (2, 1):
        length = x.shape[axis]
        at = np.arange(size, dtype=np.float32) * np.float32(length / size)
        low = at.astype(np.int32)
        share = (at - low).reshape(-1, *[1] * (3 - axis))
        a, b = (jnp.take(x, index, axis) for index in (low, np.minimum(low + 1, length - 1)))
        x = a + (b - a) * share
    return x


def conv(name, x, features, size=1, stride=1, padding="SAME"):
    """Convolution and ReLU; size is a side or (height, width)."""
    size = (size, size) if isinstance(size, int) else size
    # The default precision of accelerators is bfloat16 or TF32: seen in the third digit of a feature.
    return nn.relu(nn.Conv(features, size, stride, padding, precision="highest", name=name)(x))


def chain(name, x, *layers):
    """Convolutions name_1, name_2, ... with the given (features, size, ...)."""
    for i, layer in enumerate(layers, 1):
        x = conv(f"{name}_{i}", x, *layer)
    return x


def fork(name, x):
    """1x3 and 3x1 beside one another."""
    return jnp.concatenate([conv(f"{name}a", x, 384, (1, 3)), conv(f"{name}b", x, 384, (3, 1))], axis=-1)


def mean_pool(x):
    """3x3 means over what is inside the image: the padding is not counted."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def max_pool(x):
    return nn.max_pool(x, (3, 3), padding="SAME")


def halve(x):
    return nn.max_pool(x, (3, 3), (2, 2))


HALVING = (3, 2, "VALID")  # size, stride, padding


class Mixed5(nn.Module):
    """35 x 35."""

    pooled: int

    @nn.compact
    def __call__(self, x):
        branches = [
            conv("branch1x1", x, 64),
            chain("branch5x5", x, (48,), (64, 5)),
            chain("branch3x3dbl", x, (64,), (96, 3), (96, 3)),
            conv("branch_pool", mean_pool(x), self.pooled),
        ]
        return jnp.concatenate(branches, axis=-1)


class Mixed6a(nn.Module):
    """35 x 35 to 17 x 17."""

    @nn.compact
    def __call__(self, x):
        branches = [
            conv("branch3x3", x, 384, *HALVING),
            chain("branch3x3dbl", x, (64,), (96, 3), (96, *HALVING)),
            halve(x),
        ]
        return jnp.concatenate(branches, axis=-1)


class Mixed6(nn.Module):
    """17 x 17, with 7x7 convolutions in two factors."""

    width: int

    @nn.compact
    def __call__(self, x):
        row, column, c = (1, 7), (7, 1), self.width
        branches = [
            conv("branch1x1", x, 192),
            chain("branch7x7", x, (c,), (c, row), (192, column)),
            chain("branch7x7dbl", x, (c,), (c, column), (c, row), (c, column), (192, row)),
            conv("branch_pool", mean_pool(x), 192),
        ]
        return jnp.concatenate(branches, axis=-1)


class Mixed7a(nn.Module):
    """17 x 17 to 8 x 8."""

    @nn.compact
    def __call__(self, x):
        branches = [
            chain("branch3x3", x, (192,), (320, *HALVING)),
            chain("branch7x7x3", x, (192,), (192, (1, 7)), (192, (7, 1)), (192, *HALVING)),
            halve(x),
        ]
        return jnp.concatenate(branches, axis=-1)


class Mixed7(nn.Module):
    """8 x 8."""

    pool: Callable

    @nn.compact
    def __call__(self, x):
        branches = [
            conv("branch1x1", x, 320),
            fork("branch3x3_2", chain("branch3x3", x, (384,))),
            fork("branch3x3dbl_3", chain("branch3x3dbl", x, (448,), (384, 3))),
            conv("branch_pool", self.pool(x), 192),
        ]
        return jnp.concatenate(branches, axis=-1)


class Inception(nn.Module):
    """uint8 images b h w 3 of any size -> Outputs."""

    @nn.compact
    def __call__(self, images):
        x = (tf1_bilinear(images.astype(jnp.float32), SIDE) - 128) / 128
        x = conv("Conv2d_1a_3x3", x, 32, *HALVING)
        x = conv("Conv2d_2a_3x3", x, 32, 3, padding="VALID")
        x = halve(conv("Conv2d_2b_3x3", x, 64, 3))
        x = conv("Conv2d_3b_1x1", x, 80)
        x = halve(conv("Conv2d_4a_3x3", x, 192, 3, padding="VALID"))
        for letter, pooled in zip("bcd", (32, 64, 64)):
            x = Mixed5(pooled, name=f"Mixed_5{letter}")(x)
        x = Mixed6a(name="Mixed_6a")(x)
        for letter, width in zip("bcd", (128, 160, 160)):
            x = Mixed6(width, name=f"Mixed_6{letter}")(x)
        spatial = x[..., :7]  # branch1x1 of Mixed_6d comes first, and is the graph's mixed_6/conv
        x = Mixed6(192, name="Mixed_6e")(x)
        x = Mixed7a(name="Mixed_7a")(x)
        x = Mixed7(mean_pool, name="Mixed_7b")(x)
        x = Mixed7(max_pool, name="Mixed_7c")(x)  # the graph's slip, and part of the definition
        pool = x.mean((1, 2))
        logits = nn.Dense(1008, use_bias=False, precision="highest", name="fc")(pool)
        return Outputs(pool, logits, spatial.reshape(len(x), -1))


def apply(params, images) -> Outputs:
    """`Inception` as a function, for jit."""
    return Inception().apply({"params": params}, images)


def shapes() -> dict[str, tuple[int, ...]]:
    """The parameters' shapes by name: 'Mixed_5b.branch1x1.kernel' and so on."""
    params = jax.eval_shape(Inception().init, jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.uint8))["params"]
    return {name: leaf.shape for name, leaf in flatten_dict(params, sep=".").items()}


def fold(tensors: Mapping[str, np.ndarray]) -> dict:
    """The published port's tensors -> parameters of `Inception`, batch norms folded in, float32.

    ValueError where a tensor is missing or of another shape; fc.bias is not used.
    """
    params, expected = {}, shapes()
    try:
        for name in sorted({key.rpartition(".")[0] for key in expected} - {"fc"}):
            scale, shift, mean, variance = (
                np.asarray(tensors[f"{name}.bn.{part}"], np.float64)
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            scale = scale / np.sqrt(variance + NORM_EPS)
            params[f"{name}.kernel"] = tensors[f"{name}.conv.weight"].transpose(2, 3, 1, 0) * scale
            params[f"{name}.bias"] = shift - mean * scale
        params["fc.kernel"] = tensors["fc.weight"].T
    except KeyError as error:
        raise ValueError(f"these are not the weights of {FILE}: {error.args[0]} is missing") from None
    for name, shape in expected.items():
        if params[name].shape != shape:
            raise ValueError(f"these are not the weights of {FILE}: {name} is {params[name].shape}, not {shape}")
    return unflatten_dict({name: value.astype(np.float32) for name, value in params.items()}, sep=".")


def load(path) -> dict:
    """Parameters from a local copy of FILE; ValueError for any other file, by its sha256."""
    return fold(torch_files.read(path, SHA256))
