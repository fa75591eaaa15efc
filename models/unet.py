"""The U-Net of DDPM (Ho et al. 2020), of ADM (Dhariwal and Nichol 2021) and of Imagen's base: one module."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.checks import check_levels, check_sides, check_values
from models.conditioning import beside, check_told, embed, with_text
from models.layers import CONVENTIONS, REMAT, Attention, ResBlock, Style, double, halve, same


class UNet(nn.Module):
    """A U-Net whose level i has images of size / 2^i and `multipliers[i] * channels` channels.

    size: nominal side of the training images. It alone decides where attention stands and what the
        blocks are called (`down_32_0`), so that a network trained on crops runs on whole images.
    out_channels: the image's channels, or twice as many for a learned variance (ADM).
    blocks: residual blocks a level on the way down; one more on the way up.
    attention: sizes of the levels with attention after each block. The middle always has one.
    num_heads: attention heads, where head_channels (channels a head) is 0.
    scale_shift: the embedding scales and shifts norms (ADM) rather than being added (DDPM).
    resample: 'conv' (DDPM: of stride 2; nearest x2, then 3x3) or 'block' (in residual blocks, ADM).
    convention: 'ddpm' or 'adm': sinusoid, norm eps, initialisers, padding (layers.CONVENTIONS).
    num_labels: rows of the label embedding, that of a null label included. 0: no labels.
    text_encoder: a module (tokens [b l], mask [b l]) -> text [b l d] that is trained with the network, or None.
    groups: of every norm.
    remat: what the backward pass recomputes, for memory: 'none', 'dots' or 'blocks' (layers.REMAT).
    dtype: what the blocks compute in, 'float32' or 'bfloat16'. Parameters, norm statistics, the
        noise level's embedding and the output layer are float32 in both.
    attend: attention's products and softmax (training/flash.py has others).

    Raises ValueError when constructed, so before any compilation, if fields contradict each other.
    """

    size: int
    out_channels: int
    channels: int
    multipliers: tuple[float, ...]
    blocks: int
    attention: tuple[int, ...]
    num_heads: int = 1
    head_channels: int = 0
    scale_shift: bool = False
    resample: str = "conv"
    convention: str = "ddpm"
    num_labels: int = 0
    text_encoder: nn.Module | None = None
    dropout: float = 0.0
    groups: int = 32
    remat: str = "none"
    dtype: str = "float32"
    attend: Callable = jax.nn.dot_product_attention

    def __post_init__(self):
        super().__post_init__()
        check_values(self, CHOICES, **LEAST)
        for check in (check_levels, _check_widths, _check_heads):
            check(self)

    @nn.compact
    def __call__(self, x, noise_input, cond, train=False):
        """Map x [b h w c] and noise_input [b] float32 (DDPM: the raw index 0..999) to an output.

        cond: 'label' int32 [b] if num_labels > 0 (JAX reports no bad index: a label past the last row
        turns its image into NaN, and -1 means the last row); 'low_res' (super-resolution) and
        'known' (inpainting) [b h w c'], at x's size, join x's channels, and 'aug_level' [b] the
        embedding; 'text' [b l d], or 'tokens' [b l] for the text_encoder, with 'text_mask' [b l] joins
        every attention's keys and values, and pooled the embedding (Imagen). What there is when the
        network is initialised is what it has layers for.
        train: dropout, drawn from rngs={'dropout': key}. Returns [b h w out_channels] float32.
        Raises ValueError for sides that the levels cannot halve, and for a missing label.
        """
        _check_input(self, x, cond)
        cond = with_text(self.text_encoder, cond)
        emb = embed(self._style, self.channels, self.num_labels, noise_input, cond)
        resnet, attend = partial(self._resnet, emb, train), partial(self._attend, cond)
        levels = self.levels
        x = beside(x, cond)

        x = self._style.conv("conv_in", x, levels[0][1])
        skips = [x]
        for size, width in levels:
            for i in range(self.blocks):
                x = resnet(f"down_{size}_{i}", x, width)
                x = attend(f"down_{size}_{i}_attention", x, size)
                skips.append(x)
            if size != levels[-1][0]:
                x = self._halve(resnet, f"down_{size}_resample", x)
                skips.append(x)

        x = resnet("mid_0", x, width)
        x = attend("mid_attention", x)
        x = resnet("mid_1", x, width)

        for size, width in reversed(levels):
            for i in range(self.blocks + 1):
                x = resnet(f"up_{size}_{i}", jnp.concatenate([x, skips.pop()], axis=-1), width)
                x = attend(f"up_{size}_{i}_attention", x, size)
            if size != self.size:
                x = self._double(resnet, f"up_{size}_resample", x)

        x = nn.silu(self._style.norm("norm_out", x, jnp.float32))
        return self._style.conv("conv_out", x, self.out_channels, zero=True, dtype=jnp.float32)

    @property
    def _style(self):
        return Style(CONVENTIONS[self.convention], self.groups, jnp.dtype(self.dtype), self.attend)

    @property
    def levels(self):
        """(nominal size, channels) of each level, from the images down."""
        return [(self.size >> i, int(m * self.channels)) for i, m in enumerate(self.multipliers)]

    @nn.nowrap
    def _resnet(self, emb, train, name, x, width, resample=same):
        block = REMAT[self.remat](ResBlock)
        dropout = self.dropout if train else 0.0
        return block(self._style, width, self.scale_shift, dropout, resample, name=name)(x, emb)

    @nn.nowrap
    def _attend(self, cond, name, x, size=None):
        """Attention, to the text too, in the middle (no size) and at the sizes that have it; x itself elsewhere."""
        if size not in (None, *self.attention):
            return x
        block = REMAT[self.remat](Attention)
        return block(self._style, self._heads(x.shape[-1]), name=name)(x, cond.get("text"), cond.get("text_mask"))

    @nn.nowrap
    def _heads(self, width):
        return width // self.head_channels if self.head_channels else self.num_heads

    @nn.nowrap
    def _halve(self, resnet, name, x):
        if self.resample == "block":
            return resnet(name, x, x.shape[-1], halve)
        return self._style.conv(name, x, x.shape[-1], stride=2)

    @nn.nowrap
    def _double(self, resnet, name, x):
        if self.resample == "block":
            return resnet(name, x, x.shape[-1], double)
        return self._style.conv(name, double(x), x.shape[-1])


CHOICES = {"resample": ("conv", "block"), "convention": tuple(CONVENTIONS)}
LEAST = dict(size=1, out_channels=1, channels=4, blocks=1, num_heads=1, groups=1)
LEAST |= dict(head_channels=0, num_labels=0)


def _check_widths(net):
    if net.channels % 2:
        raise ValueError(f"channels is {net.channels}: give an even number, for sin and cos")
    for size, width in net.levels:
        if not width or width % net.groups:
            raise ValueError(
                f"groups is {net.groups}, which does not divide the {width} channels of level {size} "
                f"(channels {net.channels}): change groups, channels or multipliers"
            )


def _check_heads(net):
    if net.head_channels and net.num_heads > 1:
        raise ValueError(
            f"num_heads is {net.num_heads} and head_channels is {net.head_channels}: "
            "give one of them (num_heads 1 and head_channels 0 leave it to the other)"
        )
    key = "head_channels" if net.head_channels else "num_heads"
    divisor = getattr(net, key)
    middle = net.levels[-1][0]
    for size, width in net.levels:
        if size in (middle, *net.attention) and width % divisor:
            raise ValueError(
                f"{key} is {divisor}, which does not divide the {width} channels of the attention "
                f"at {size}: give a divisor of {width}"
            )


def _check_input(net, x, cond):
    check_sides(net, x)
    check_told(cond, net.num_labels, ("text", "tokens", "text_mask", "low_res", "known", "aug_level"), "unet")
