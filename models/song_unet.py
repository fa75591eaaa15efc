"""EDM's SongUNet in its DDPM++ form (Karras et al. 2022, arXiv 2206.00364; first Song et al. 2021)."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models.checks import check_levels, check_sides, check_values
from models.conditioning import beside, check_told
from models.layers import REMAT, Attention, Convention, ResBlock, Style, ddpm_sinusoid, double, halve, same, zero_bias

# Layers that start as nothing start at 1e-5 of the others' bound. Query, key and value are drawn there as one layer of
# variance .2, whose fan is 3 c: drawn apart, with a fan of c, that is half of it.
XAVIER = nn.initializers.xavier_uniform()
CONVENTION = Convention(
    sinusoid=ddpm_sinusoid,
    norm_eps=1e-6,
    kernel_init=XAVIER,
    bias_init=zero_bias,
    halving=(1, 1),
    small_init=nn.initializers.variance_scaling(1e-10, "fan_avg", "uniform"),
    attention_init=nn.initializers.variance_scaling(0.1, "fan_avg", "uniform"),
    group_channels=4,
    residual=2**-0.5,
)


class SongUNet(nn.Module):
    """A U-Net whose sums are scaled by 2^-1/2, and that resamples inside of residual blocks.

    size, out_channels, channels, multipliers, blocks, num_labels, dropout, remat, dtype, attend: as in UNet, with
    one difference: `channels` is the width of the embeddings, and the first level may have a multiple of it.
    attention: sizes of the levels with attention after each block on the way down, and after the last on the way up.
    The middle always has one. It has one head.

    Raises ValueError when constructed, so before any compilation, if fields contradict each other.
    """

    size: int
    out_channels: int
    channels: int
    multipliers: tuple[float, ...]
    blocks: int
    attention: tuple[int, ...]
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

        cond: 'label' int32 [b] if num_labels > 0; 'augment' [b n], what was done to the image, zeros for nothing;
        'low_res' and 'known' join x's channels. Raises ValueError for a condition of another kind, and for sides that
        the levels cannot halve.
        """
        check_told(cond, self.num_labels, ("augment", "low_res", "known"), "song_unet")
        check_sides(self, x)
        style, levels = Style(CONVENTION, 32, jnp.dtype(self.dtype), self.attend), self.levels
        resnet = partial(self._resnet, style, self._embed(style, noise_input, cond), train)
        attend = partial(self._attend, style)

        x = style.conv("conv_in", beside(x, cond), self.channels)
        skips = [x]
        for size, width in levels:
            for i in range(self.blocks):
                x = resnet(f"down_{size}_{i}", x, width)
                x = attend(f"down_{size}_{i}_attention", x) if size in self.attention else x
                skips.append(x)
            if size != levels[-1][0]:
                x = resnet(f"down_{size}_resample", x, width, halve)
                skips.append(x)

        x = resnet("mid_0", x, width)
        x = attend("mid_attention", x)
        x = resnet("mid_1", x, width)

        for size, width in reversed(levels):
            for i in range(self.blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = resnet(f"up_{size}_{i}", x, width)
            x = attend(f"up_{size}_{i}_attention", x) if size in self.attention else x
            if size != self.size:
                x = resnet(f"up_{size}_resample", x, width, double)

        x = nn.silu(style.norm("norm_out", x, jnp.float32))
        return style.conv("conv_out", x, self.out_channels, zero=True, dtype=jnp.float32)

    @property
    def levels(self):
        """(nominal size, channels) of each level, from the images down."""
        return [(self.size >> i, int(m * self.channels)) for i, m in enumerate(self.multipliers)]

    @nn.nowrap
    def _embed(self, style, noise_input, cond):
        """What every block is told, [b 4 channels] float32: level, label and augmentation share the layers."""
        told = CONVENTION.sinusoid(noise_input, self.channels)
        if self.num_labels:
            # EDM's layer on one-hot labels of magnitude sqrt(n), so that Adam steps as it does there.
            one_hot = nn.one_hot(cond["label"], self.num_labels) * np.sqrt(self.num_labels)
            told = told + style.dense("label", one_hot, self.channels, dtype=jnp.float32)
        if "augment" in cond:
            told = told + nn.Dense(self.channels, use_bias=False, kernel_init=XAVIER, name="augment")(cond["augment"])
        for name in ("time_1", "time_2"):
            told = nn.silu(style.dense(name, told, 4 * self.channels, dtype=jnp.float32))
        return told

    @nn.nowrap
    def _resnet(self, style, told, train, name, x, width, resample=same):
        dropout, project = self.dropout if train else 0.0, resample is not same
        block = REMAT[self.remat](ResBlock)
        return block(style, width, False, dropout, resample, project, name=name)(x, told)

    @nn.nowrap
    def _attend(self, style, name, x):
        return REMAT[self.remat](Attention)(style, 1, name=name)(x)


def _check(net):
    check_values(net, size=1, out_channels=1, channels=4, blocks=1, num_labels=0)
    check_levels(net)
    for width in (net.channels, *(width for _, width in net.levels)):
        if width % (least := 4 if width <= 64 else 32):  # groups of norms, and of what is joined
            raise ValueError(f"channels and multipliers give {width} channels: give multiples of {least}")
