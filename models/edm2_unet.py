"""EDM2's magnitude-preserving U-Net (Karras et al. 2024, arXiv 2312.02696, figure 21): configuration G."""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.checks import check_levels, check_sides, check_values
from models.conditioning import beside, check_told
from models.layers import REMAT, double, halve, same, split_heads

CLIP = 256  # of every block's output
RESIDUAL = 0.3  # the share of a branch in its sum with the main path


def unit(x, axes, eps=1e-4):
    """x with a root mean square of 1 over the axes, in float32."""
    square = jnp.mean(jnp.square(x.astype(jnp.float32)), axes, keepdims=True)
    return (x / (eps + jnp.sqrt(square)).astype(x.dtype)).astype(x.dtype)


def unit_rows(kernel):
    """A kernel [.. in out] whose weights of each output have a root mean square of 1. Eq. (47), (66)."""
    return unit(kernel, tuple(range(kernel.ndim - 1)))


def mp_silu(x):
    """swish with an expected magnitude of 1. Eq. (81)."""
    return nn.silu(x) / 0.596


def mp_sum(a, b, t):
    """(1 - t) a + t b at an expected magnitude of 1. Eq. (88)."""
    return ((1 - t) * a + t * b) / math.hypot(1 - t, t)


def mp_concatenate(a, b, t=0.5):
    """Channels of a and b, which count as 1 - t and t, at an expected magnitude of 1. Eq. (103)."""
    n, m = a.shape[-1], b.shape[-1]
    scale = math.sqrt(n + m) / math.hypot(1 - t, t)
    return jnp.concatenate([a * (scale * (1 - t) / math.sqrt(n)), b * (scale * t / math.sqrt(m))], axis=-1)


def unit_normal(key, shape, dtype=jnp.float32):
    return unit_rows(jax.random.normal(key, shape, dtype))


class Linear(nn.Module):
    """A layer without bias whose output has the magnitude of its input, times a gain: dense, or 3x3. Eq. (47).

    Its kernel is normalised where it is used, and by `EDM2UNet.project` after each update (forced normalisation, Eq.
    66), so that the updates' size relative to the weights is the learning rate alone.
    """

    features: int
    side: int = 1

    @nn.compact
    def __call__(self, x, gain=1.0):
        around = (self.side, self.side) if self.side > 1 else ()
        kernel = self.param("kernel", unit_normal, (*around, x.shape[-1], self.features))
        kernel = unit_rows(kernel) * (gain / math.sqrt(math.prod(kernel.shape[:-1])))
        kernel = kernel.astype(x.dtype)
        if self.side == 1:
            return x @ kernel
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


class Block(nn.Module):
    """A residual block, and attention where there are heads. Called with x [b h w c] and told [b d].

    down: on the way down, where the shortcut comes first and its pixels are normalised; up: it comes last.
    """

    features: int
    down: bool
    heads: int
    dropout: float
    resample: Callable = same
    attend: Callable = jax.nn.dot_product_attention

    @nn.compact
    def __call__(self, x, told):
        x = self.resample(x)
        shortcut = Linear(self.features, name="shortcut") if x.shape[-1] != self.features else same
        if self.down:
            x = unit(shortcut(x), -1)
        y = Linear(self.features, 3, name="conv_1")(mp_silu(x))
        gain = self.param("gain", nn.initializers.zeros, ())
        scale = 1 + Linear(self.features, name="embedding")(told, gain)
        y = mp_silu(y * scale[:, None, None].astype(y.dtype))
        y = nn.Dropout(self.dropout, deterministic=False)(y)
        y = Linear(self.features, 3, name="conv_2")(y)
        x = mp_sum(x if self.down else shortcut(x), y, RESIDUAL)
        if self.heads:
            x = mp_sum(x, self._attend(x), RESIDUAL)
        return jnp.clip(x, -CLIP, CLIP)

    @nn.nowrap
    def _attend(self, x):
        b, h, w, c = x.shape
        pixels = x.reshape(b, h * w, c)
        query, key, value = (
            unit(split_heads(Linear(c, name=name)(pixels), self.heads), -1) for name in ("query", "key", "value")
        )
        y = self.attend(query, key, value).reshape(x.shape)
        return Linear(c, name="out")(y)


class EDM2UNet(nn.Module):
    """A U-Net without norms or biases, whose layers keep the magnitude of what passes through them.

    size, out_channels, channels, multipliers, blocks, num_labels, dropout, remat, dtype, attend: as in UNet. The
    paper's widths: XS 128, S 192, M 256, L 320, XL 384, XXL 448.
    attention: sizes of the levels with attention after each block. The middle always has one.
    head_channels: channels of each head, 64 in the paper.

    Raises ValueError when constructed, so before any compilation, if fields contradict each other.
    """

    size: int
    out_channels: int
    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    head_channels: int = 64
    num_labels: int = 0
    dropout: float = 0.0
    remat: str = "none"
    dtype: str = "float32"
    attend: Callable = jax.nn.dot_product_attention

    def __post_init__(self):
        super().__post_init__()
        _check(self)

    @nn.compact
    def __call__(self, x, noise_input, cond, train=False):
        """Map x [b h w c] and noise_input [b] to an output [b h w out_channels] float32; cond and train as in UNet.

        cond: 'label' int32 [b] if num_labels > 0; 'low_res' and 'known' join x's channels. Raises ValueError for a
        condition of another kind, and for sides that the levels cannot halve.
        """
        check_told(cond, self.num_labels, ("low_res", "known"), "edm2_unet")
        check_sides(self, x)
        levels, dtype = self.levels, jnp.dtype(self.dtype)
        block = partial(self._block, self._embed(noise_input, cond), self.dropout if train else 0.0)

        x = beside(x, cond).astype(dtype)
        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)  # what a bias would have said
        x = Linear(levels[0][1], 3, name="conv_in")(x)
        skips = [x]
        for size, width in levels:
            for i in range(self.blocks):
                x = block(f"down_{size}_{i}", x, width, True, size in self.attention)
                skips.append(x)
            if size != levels[-1][0]:
                x = block(f"down_{size}_resample", x, width, True, resample=halve)
                skips.append(x)

        x = block("mid_0", x, width, False, True)
        x = block("mid_1", x, width, False)

        for size, width in reversed(levels):
            for i in range(self.blocks + 1):
                x = mp_concatenate(x, skips.pop())
                x = block(f"up_{size}_{i}", x, width, False, size in self.attention)
            if size != self.size:
                x = block(f"up_{size}_resample", x, width, False, resample=double)
        gain = self.param("gain_out", nn.initializers.zeros, ())
        return Linear(self.out_channels, 3, name="conv_out")(x.astype(jnp.float32), gain)

    @staticmethod
    def project(params):
        """Parameters with every kernel's rows at a root mean square of 1: forced weight normalisation, Eq. (66)."""

        def projected(path, leaf):
            return unit_rows(leaf) if path[-1].key == "kernel" else leaf

        return jax.tree.map_with_path(projected, params)

    @property
    def levels(self):
        """(nominal size, channels) of each level, from the images down."""
        return [(self.size >> i, int(m * self.channels)) for i, m in enumerate(self.multipliers)]

    @nn.nowrap
    def _embed(self, noise_input, cond):
        """What every block is told, [b d] float32, d the widest level's channels. The features are not trained."""
        first, widest = self.levels[0][1], max(width for _, width in self.levels)
        frequency = self.param("frequency", nn.initializers.normal(2 * math.pi), (first,))
        phase = self.param("phase", nn.initializers.uniform(2 * math.pi), (first,))
        frequency, phase = jax.lax.stop_gradient((frequency, phase))
        features = math.sqrt(2) * jnp.cos(noise_input[:, None].astype(jnp.float32) * frequency + phase)  # Eq. (75)
        told = Linear(widest, name="time")(features)
        if self.num_labels:
            one_hot = nn.one_hot(cond["label"], self.num_labels) * math.sqrt(self.num_labels)
            told = mp_sum(told, Linear(widest, name="label")(one_hot), 0.5)
        return mp_silu(told)

    @nn.nowrap
    def _block(self, told, dropout, name, x, width, down, attend=False, resample=same):
        heads = width // self.head_channels if attend else 0
        return REMAT[self.remat](Block)(width, down, heads, dropout, resample, self.attend, name=name)(x, told)


def _check(net):
    check_values(net, size=1, out_channels=1, channels=4, blocks=1, head_channels=1, num_labels=0)
    check_levels(net)
    for size, width in net.levels:
        if size in (net.levels[-1][0], *net.attention) and width % net.head_channels:
            raise ValueError(f"head_channels is {net.head_channels}, which does not divide the {width} at {size}")
