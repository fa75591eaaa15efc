"""The diffusion transformer, DiT, with adaLN-Zero (Peebles and Xie 2023, arXiv 2212.09748)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models.checks import check_values
from models.conditioning import beside, check_told
from models.layers import REMAT, Convention, Style, adm_sinusoid, split_heads, zero_bias

CONVENTION = Convention(
    sinusoid=adm_sinusoid,
    norm_eps=1e-6,
    kernel_init=nn.initializers.xavier_uniform(),
    bias_init=zero_bias,
    halving=(1, 1),
)
FREQUENCIES = 256  # values of the noise level's sinusoid, whatever the width
SMALL = nn.initializers.normal(0.02)  # of the embeddings


class DiT(nn.Module):
    """A transformer over patches of the image, told noise level and label by scales, shifts and gates.

    size: nominal side of the images, or latents; only checked against the patches. Any side that they divide runs.
    out_channels: the image's channels, or twice as many for a learned variance.
    channels, blocks, num_heads: width, depth and heads. S 384, 12, 6; B 768, 12, 12; L 1024, 24, 16; XL 1152, 28, 16.
    patch: side of a patch, 2, 4 or 8 in the paper.
    num_labels, remat, dtype, attend: as in UNet. The blocks are one scan: they compile once, and their parameters are
        stacked.

    Raises ValueError when constructed, so before any compilation, if fields contradict each other.
    """

    size: int
    out_channels: int
    channels: int
    blocks: int
    num_heads: int
    patch: int = 2
    num_labels: int = 0
    remat: str = "none"
    dtype: str = "float32"
    attend: Callable = jax.nn.dot_product_attention

    def __post_init__(self):
        super().__post_init__()
        _check(self)

    @nn.compact
    def __call__(self, x, noise_input, cond, train=False):
        """Map x [b h w c] and noise_input [b] to an output [b h w out_channels] float32; cond and train as in UNet.

        cond: 'label' int32 [b] if num_labels > 0; 'low_res' and 'known' join x's channels, 'aug_level' [b] the
        embedding. DiT has no dropout. Raises ValueError for a condition of another kind, and for sides that patches
        do not divide.
        """
        check_told(cond, self.num_labels, ("low_res", "known", "aug_level"), "dit")
        style, (h, w) = Style(CONVENTION, 1, jnp.dtype(self.dtype), self.attend), x.shape[1:3]
        if h % self.patch or w % self.patch:
            raise ValueError(f"images are {h} x {w}: give sides that are multiples of patch={self.patch}")
        rows, columns = h // self.patch, w // self.patch
        told = self._embed(style, noise_input, cond)

        x = style.dense("patch_in", patches(beside(x, cond), self.patch), self.channels)
        x = x + jnp.asarray(positions(rows, columns, self.channels), x.dtype)
        x = stacked("blocks", self.blocks, self.remat, style, self.num_heads)(x, told)

        shift, scale = modulation(style, told, self.channels, 2, jnp.float32)
        x = style.bare_layer_norm(x, jnp.float32) * (1 + scale) + shift
        x = style.dense("patch_out", x, self.patch**2 * self.out_channels, zero=True, dtype=jnp.float32)
        return unpatched(x, rows, columns, self.patch)

    @nn.nowrap
    def _embed(self, style, noise_input, cond):
        """swish of what every block is told, [b channels] float32."""

        def number(name, value):
            hidden = nn.Dense(self.channels, kernel_init=SMALL, name=f"{name}_1")(adm_sinusoid(value, FREQUENCIES))
            return nn.Dense(self.channels, kernel_init=SMALL, name=f"{name}_2")(nn.silu(hidden))

        told = number("time", noise_input)
        if self.num_labels:
            rows = nn.Embed(self.num_labels, self.channels, embedding_init=SMALL, name="label")
            told = told + rows(cond["label"])
        if "aug_level" in cond:
            told = told + number("aug", 1000 * cond["aug_level"])
        return nn.silu(told)


class Block(nn.Module):
    """Attention and an MLP of four times the width, each behind a norm that told scales and shifts, and a gate.

    The gates start at 0, so that a block starts as nothing (adaLN-Zero). Called with x [b l c] and told [b d], returns
    (x, None), as a scan wants it. dropout: a rate on the MLP's hidden layer, 0 outside training.
    """

    style: Style
    heads: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, told):
        style, width = self.style, x.shape[-1]
        parts = modulation(style, told, width, 6)
        y = style.bare_layer_norm(x) * (1 + parts[1]) + parts[0]
        query, key, value = (split_heads(style.dense(name, y, width), self.heads) for name in ("query", "key", "value"))
        y = style.attend(query, key, value).reshape(x.shape)
        x = x + parts[2] * style.dense("out", y, width)

        y = style.bare_layer_norm(x) * (1 + parts[4]) + parts[3]
        y = nn.gelu(style.dense("wi", y, 4 * width), approximate=True)
        y = nn.Dropout(self.dropout, deterministic=False)(y)
        return x + parts[5] * style.dense("wo", y, width), None


def stacked(name, count, remat, *fields):
    """(x, told) -> x through `count` Blocks of these fields: one scan, so that they compile once."""
    stack = nn.scan(
        REMAT[remat](Block),
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=count,
    )(*fields, name=name)
    return lambda x, told: stack(x, told)[0]


def modulation(style, told, width, parts, dtype=None):
    """`parts` shifts, scales and gates [b 1 width] of told, which start at 0. Called inside a compact method."""
    said = style.dense("modulation", told, parts * width, zero=True, dtype=dtype)
    return jnp.split(said[:, None], parts, axis=-1)


def patches(x, side):
    """[b h w c] -> [b h/side * w/side, side^2 c]: rows of patches, each row by row."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // side, side, w // side, side, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // side * w // side, side**2 * c)


def unpatched(x, rows, columns, side):
    """The inverse of `patches`."""
    x = x.reshape(len(x), rows, columns, side, side, -1).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(len(x), rows * side, columns * side, -1)


def positions(rows, columns, width):
    """[rows * columns, width] float32: sin | cos of the column, then of the row, at width / 4 frequencies each."""
    frequencies = 1e4 ** -(np.arange(width // 4) / (width // 4))
    row, column = (np.outer(np.arange(n), frequencies) for n in (rows, columns))
    row, column = (np.concatenate([np.sin(angle), np.cos(angle)], axis=-1) for angle in (row, column))
    grid = (rows, columns, width // 2)
    both = [np.broadcast_to(column[None], grid), np.broadcast_to(row[:, None], grid)]
    return np.concatenate(both, axis=-1).reshape(rows * columns, width).astype(np.float32)


def _check(net):
    check_values(net, size=1, out_channels=1, channels=4, blocks=1, num_heads=1, patch=1, num_labels=0)
    if net.size % net.patch:
        raise ValueError(f"size is {net.size}, which patches of {net.patch} do not divide: change patch")
    if net.channels % 4 or net.channels % net.num_heads:
        raise ValueError(f"channels is {net.channels}: give a multiple of 4 and of num_heads={net.num_heads}")
