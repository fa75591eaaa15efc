"""Tensors under another project's names -> parameters of `UNet`, and back.

A layout says where each block of the U-Net lies there and what a block's layers are called; the rest is common: torch
keeps kernels [out in h w] and rows [out in], Flax [h w in out] and [in out].
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from models.unet import UNet

Tensors = Mapping[str, np.ndarray]


class Layout(NamedTuple):
    """blocks(net) -> {our block: their prefix}; layers: {our layer in a block: theirs}."""

    blocks: Callable[[UNet], Mapping[str, str]]
    layers: Mapping[str, str]


def shapes(net, low_res: bool = False, channels: int = 3, **told: int) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Every parameter's path and shape of a network of images of so many channels.

    low_res: of an upsampler, which is fed a second image. told: the widths of other things that it is told.
    """
    image, number = jnp.zeros((1, net.size, net.size, channels)), jnp.zeros((1,))
    cond = {"label": jnp.zeros((1,), jnp.int32)} | ({"low_res": image} if low_res else {})
    cond |= {name: jnp.zeros((1, width)) for name, width in told.items()}
    params = jax.eval_shape(net.init, jax.random.key(0), image, number, cond)["params"]
    return {path: leaf.shape for path, leaf in flatten_dict(params).items()}


def their_name(layout: Layout, blocks: Mapping[str, str], path: tuple[str, ...]) -> str:
    """('down_32_0', 'norm_1', 'scale') -> 'down_blocks.0.resnets.0.norm1.weight'."""
    block, *layer, leaf = path
    parts = [blocks[block], *(layout.layers[name] for name in layer)]
    return ".".join([*parts, "bias" if leaf == "bias" else "weight"])


def to_params(layout: Layout, net: UNet, tensors: Tensors, low_res: bool = False, **told: int) -> dict:
    """Parameters of `net`, float32. Raises ValueError naming tensors that are missing, surplus or of another shape."""
    blocks = layout.blocks(net)
    return named(shapes(net, low_res, **told), tensors, lambda path: their_name(layout, blocks, path))


def named(shapes: Mapping, tensors: Tensors, name_of: Callable[[tuple[str, ...]], str]) -> dict:
    """The parameters of these paths and shapes, of tensors by the names that name_of gives. Raises as to_params."""
    params, used = {}, set()
    for path, shape in shapes.items():
        name = name_of(path)
        if name not in tensors:
            raise ValueError(f"the file lacks {name}, which a network of these settings has: check the settings")
        params[path] = ours(tensors[name], shape, path[-1], name)
        used.add(name)
    if surplus := sorted(tensors.keys() - used):
        raise ValueError(f"the file has tensors that a network of these settings lacks: {listed(surplus)}")
    return unflatten_dict(params)


def ours(tensor: np.ndarray, shape: tuple[int, ...], leaf: str, name: str) -> np.ndarray:
    """A torch tensor as a Flax leaf of this shape: a 1x1 convolution is a dense layer here."""
    value = np.asarray(tensor, np.float32)
    if leaf == "kernel" and value.ndim > 1:
        value = value.reshape(value.shape[:2]) if len(shape) == 2 and value[0, 0].size == 1 else value
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    if value.shape != shape:
        raise ValueError(f"{name} is {list(np.shape(tensor))}, which does not fit {list(shape)}: check the settings")
    return value.copy()


def to_tensors(layout: Layout, net: UNet, params: Mapping, convolutions: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """The inverse of `to_params`. convolutions: their layers that keep dense kernels as 1x1 convolutions."""
    blocks, tensors = layout.blocks(net), {}
    for path, value in flatten_dict(dict(params)).items():
        name, value = their_name(layout, blocks, path), np.asarray(value, np.float32)
        if path[-1] == "kernel":
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
            value = value[:, :, None, None] if name.split(".")[-2] in convolutions else value
        tensors[name] = np.ascontiguousarray(value)
    return tensors


# How the rows of a fused [3 c, ...] layer fall into query, key, value, heads and channels: shape, axis of the three.
ORDERS = {
    "new": lambda heads: ((3, heads, -1), 0),  # guided-diffusion's use_new_attention_order
    "legacy": lambda heads: ((heads, 3, -1), 1),
    "edm": lambda heads: ((heads, -1, 3), 2),
}


def split_qkv(tensors: Tensors, heads: Callable[[int], int], order: str) -> dict[str, np.ndarray]:
    """Every 'X.qkv.weight' as X.query.weight, X.key.weight, X.value.weight, heads outermost; biases likewise.

    heads: channels -> heads.
    """
    found = {}
    for name, value in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if not layer.endswith(".qkv"):
            found[name] = value
            continue
        channels = len(value) // 3
        shape, axis = ORDERS[order](heads(channels))
        parts = np.moveaxis(value.reshape(*shape, *value.shape[1:]), axis, 0).reshape(3, channels, *value.shape[1:])
        found |= {f"{layer.removesuffix('qkv')}{part}.{leaf}": x for part, x in zip(("query", "key", "value"), parts)}
    return found


def heads_of(net: UNet) -> Callable[[int], int]:
    return lambda channels: channels // net.head_channels if net.head_channels else net.num_heads


def listed(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
