"""The Efficient U-Net of Imagen's super-resolution stages (Saharia et al. 2022, appendix B.1, figures A.27 to A.30)."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.conditioning import beside, check_told, embed, with_text
from models.layers import CONVENTIONS, REMAT, Attention, ResBlock, Style, double


class EfficientUNet(nn.Module):
    """A U-Net most of whose layers stand at low resolution: each level halves first and doubles last.

    size: nominal side of the images; level i runs at size / 2^(i + 1). It decides where attention stands and what
        blocks are called (`down_64_0`), so that a network trained on crops runs on whole images.
    out_channels: the image's channels.
    channels, multipliers, level_blocks: level i has multipliers[i] * channels channels, and level_blocks[i] residual
        blocks on either way.
    attention: sizes of the levels that end in self-attention, with the text among keys and values.
    cross_attention: sizes of those that end in attention to the text alone, where there is one (256 to 1024).
    num_heads: of both, over twice the level's channels.
    num_labels, text_encoder, dropout, groups, convention, remat, dtype, attend: as in UNet.

    Each residual block of the way up is given one skip, scaled by 2^-1/2. Raises ValueError when constructed, so
    before any compilation, if fields contradict each other.
    """

    size: int
    out_channels: int
    channels: int
    multipliers: tuple[int, ...]
    level_blocks: tuple[int, ...]
    attention: tuple[int, ...] = ()
    cross_attention: tuple[int, ...] = ()
    num_heads: int = 8
    num_labels: int = 0
    text_encoder: nn.Module | None = None
    dropout: float = 0.0
    groups: int = 32
    convention: str = "adm"
    remat: str = "none"
    dtype: str = "float32"
    attend: Callable = jax.nn.dot_product_attention

    def __post_init__(self):
        super().__post_init__()
        for check in (_check_values, _check_levels, _check_widths):
            check(self)

    @nn.compact
    def __call__(self, x, noise_input, cond, train=False):
        """Map x [b h w c] and noise_input [b] float32 to an output [b h w out_channels] float32; cond as in UNet.

        train: dropout, drawn from rngs={'dropout': key}. Raises ValueError for sides that the levels cannot halve.
        """
        _check_input(self, x)
        takes = ("text", "tokens", "text_mask", "low_res", "known", "aug_level")
        check_told(cond, self.num_labels, takes, "efficient_unet")
        style, levels = self._style, self.levels
        cond = with_text(self.text_encoder, cond)
        emb = embed(style, self.channels, self.num_labels, noise_input, cond)
        attend = partial(self._attend, cond)
        x = beside(x, cond)

        x = style.conv("conv_in", x, self.channels)
        skips = []
        for size, width, count in levels:
            x = style.conv(f"down_{size}_resample", x, width, stride=2)
            told = self._combine(f"down_{size}_embedding", emb, width)
            for i in range(count):
                x = self._resnet(f"down_{size}_{i}", x, told, width, train)
                skips.append(x)
            x = skips[-1] = attend(f"down_{size}_attention", x, size)

        above = [self.channels, *(width for _, width, _ in levels)]
        for (size, width, count), out in reversed(list(zip(levels, above))):
            told = self._combine(f"up_{size}_embedding", emb, width)
            for i in range(count):
                x = jnp.concatenate([x, skips.pop() * 2**-0.5], axis=-1)
                x = self._resnet(f"up_{size}_{i}", x, told, width, train)
            x = attend(f"up_{size}_attention", x, size)
            x = style.conv(f"up_{size}_resample", double(x), out)
        return style.dense("conv_out", x, self.out_channels, zero=True, dtype=jnp.float32)

    @property
    def _style(self):
        return Style(CONVENTIONS[self.convention], self.groups, jnp.dtype(self.dtype), self.attend)

    @property
    def levels(self):
        """(nominal size, channels, residual blocks) of each level, from the images down."""
        rows = zip(self.multipliers, self.level_blocks)
        return [(self.size >> i + 1, multiplier * self.channels, count) for i, (multiplier, count) in enumerate(rows)]

    @nn.nowrap
    def _combine(self, name, emb, width):
        """The embedding at a level's width, swish of it: 'CombineEmbs'."""
        return nn.silu(self._style.dense(name, emb, width))

    @nn.nowrap
    def _resnet(self, name, x, told, width, train):
        block = REMAT[self.remat](ResBlock)
        dropout = self.dropout if train else 0.0
        return block(self._style, width, True, dropout, project=True, name=name)(x, told)

    @nn.nowrap
    def _attend(self, cond, name, x, size):
        """What ends a level: attention to pixels and text, to the text alone, or nothing."""
        text, mask = cond.get("text"), cond.get("text_mask")
        own = size in self.attention
        if not own and (size not in self.cross_attention or text is None):
            return x
        block = REMAT[self.remat](Attention)
        return block(self._style, self.num_heads, 2 * x.shape[-1], own, name=name)(x, text, mask)


CHOICES = {"convention": tuple(CONVENTIONS), "remat": tuple(REMAT), "dtype": ("float32", "bfloat16")}
LEAST = dict(size=1, out_channels=1, channels=4, num_heads=1, groups=1, num_labels=0)


def _check_values(net):
    for key, least in LEAST.items():
        if getattr(net, key) < least:
            raise ValueError(f"{key} is {getattr(net, key)}: give at least {least}")
    for key, choices in CHOICES.items():
        if getattr(net, key) not in choices:
            raise ValueError(f"{key} is {getattr(net, key)!r}: choose from {choices}")
    if not 0 <= net.dropout < 1:
        raise ValueError(f"dropout is {net.dropout}: give a rate in [0, 1)")


def _check_levels(net):
    if not net.multipliers or len(net.level_blocks) != len(net.multipliers):
        given = f"level_blocks is {net.level_blocks} and multipliers {net.multipliers}"
        raise ValueError(f"{given}: give both one number a level")
    if net.size % 2 ** len(net.multipliers):
        raise ValueError(
            f"size is {net.size}, which {len(net.multipliers)} levels halve: "
            f"give a multiple of {2 ** len(net.multipliers)}, or fewer levels"
        )
    sizes = [size for size, _, _ in net.levels]
    for key in ("attention", "cross_attention"):
        if missing := sorted(set(getattr(net, key)) - set(sizes)):
            raise ValueError(f"{key} is at {missing}, which is no level: choose from {sizes}")
    if both := sorted(set(net.attention) & set(net.cross_attention)):
        raise ValueError(f"attention and cross_attention are both at {both}: self-attention sees the text already")


def _check_widths(net):
    for size, width, _ in net.levels:
        if not width or width % net.groups:
            raise ValueError(f"groups is {net.groups}, which does not divide the {width} channels of level {size}")
        if size in (*net.attention, *net.cross_attention) and 2 * width % net.num_heads:
            raise ValueError(f"num_heads is {net.num_heads}, which does not divide the {2 * width} channels at {size}")


def _check_input(net, x):
    b, h, w, c = x.shape
    multiple = 2 ** len(net.multipliers)
    if h % multiple or w % multiple:
        raise ValueError(
            f"images are {h} x {w}, which {len(net.multipliers)} levels cannot halve: "
            f"give sides (of crops, too) that are multiples of {multiple}"
        )
