"""A generator and a discriminator without normalisation, after R3GAN (Huang et al. 2024, arXiv 2501.05441).

R3GAN's residual blocks are 1x1, grouped 3x3, 1x1 convolutions and its resampling bilinear; here they are two 3x3
convolutions and boxes (nearest neighbour up, means down), which small widths on a CPU are faster with.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from models.checks import check_values
from models.layers import double, halve

NOISE = 64  # numbers that an image is made of; R3GAN's for every data set
SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # keeps the variance through a leaky ReLU (He et al. 2015)


def normal(gain: float):
    """Of variance gain^2 / fan-in."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


class Gan(nn.Module):
    """Both networks, level i of size / 2^i with `multipliers[i] * channels` channels, `blocks` residual blocks each.

    shape: (h, w, c) of the images, whose sides the levels halve. num_labels: rows of the label embeddings. 0: none.
    dtype: what the blocks compute in. Parameters, noise, images and the discriminator's last sum are float32.
    Their parameters lie under 'generator' and 'discriminator'.
    """

    shape: tuple[int, int, int]
    channels: int
    multipliers: tuple[float, ...]
    blocks: int
    num_labels: int = 0
    dtype: str = "float32"

    def __post_init__(self):
        super().__post_init__()
        check_values(self, channels=1, blocks=1, num_labels=0)
        if not self.multipliers:
            raise ValueError("multipliers is empty: give one number a level")
        if min(self.widths) < 1:
            raise ValueError(f"multipliers {self.multipliers} of {self.channels} channels leave a level without any")
        halvings = len(self.multipliers) - 1
        if any(side % 2**halvings for side in self.shape[:2]):
            raise ValueError(
                f"images are {self.shape[0]} x {self.shape[1]}, which {len(self.multipliers)} multipliers halve "
                f"{halvings} times: give sides that are multiples of {2**halvings}, or fewer multipliers"
            )

    @property
    def widths(self):
        """Channels of each level, from the images down."""
        return tuple(int(m * self.channels) for m in self.multipliers)

    def setup(self):
        dtype = jnp.dtype(self.dtype)
        self.generator = Generator(self.shape, self.widths, self.blocks, self.num_labels, dtype)
        self.discriminator = Discriminator(self.widths, self.blocks, self.num_labels, dtype)

    def __call__(self, z, cond):
        """What the discriminator says of generated images: runs all layers once, for initialisation."""
        return self.criticise(self.generate(z, cond), cond)

    def generate(self, z, cond):
        """z [b NOISE] of unit normals, cond 'label' int32 [b] if num_labels -> images [b h w c], about in [-1, 1]."""
        return self.generator(z, cond)

    def criticise(self, x, cond):
        """Images [b h w c] -> how real they look, [b]; only differences mean something."""
        return self.discriminator(x, cond)


class Generator(nn.Module):
    """A learned image of the lowest level, each channel times what the noise and the label say, then up."""

    shape: tuple[int, int, int]
    widths: Sequence[int]  # from the images down
    blocks: int
    num_labels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, z, cond):
        low = [side >> len(self.widths) - 1 for side in self.shape[:2]]
        width, depth = self.widths[-1], len(self.widths) * self.blocks
        if self.num_labels:
            label = nn.Embed(self.num_labels, NOISE, embedding_init=nn.initializers.normal(1.0), name="label")
            z = jnp.concatenate([z, label(cond["label"])], axis=-1)
        scale = nn.Dense(width, use_bias=False, kernel_init=normal(1.0), name="scale")(z)
        x = self.param("basis", nn.initializers.normal(1.0), (*low, width)) * scale[:, None, None]
        for level in reversed(range(len(self.widths))):
            if level < len(self.widths) - 1:
                x = double(pointwise(f"up_{level}", x, self.widths[level], self.dtype))
            for i in range(self.blocks):
                x = Residual(depth, self.dtype, name=f"block_{level}_{i}")(x)
        return pointwise("out", x, self.shape[2], jnp.float32)


class Discriminator(nn.Module):
    """Down to the lowest level, a weighted sum over its pixels for each channel, and the product with the label's row.

    Without labels the last layer has one output (projection: Miyato and Koyama 2018, arXiv 1802.05637, without its
    unconditional term, as R3GAN).
    """

    widths: Sequence[int]
    blocks: int
    num_labels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, cond):
        width, depth = self.widths[-1], len(self.widths) * self.blocks
        x = pointwise("in", x, self.widths[0], self.dtype)
        for level in range(len(self.widths)):
            if level:
                x = pointwise(f"down_{level}", halve(x), self.widths[level], self.dtype)
            for i in range(self.blocks):
                x = Residual(depth, self.dtype, name=f"block_{level}_{i}")(x)
        x = x.astype(jnp.float32)
        pixels = math.prod(x.shape[1:3])
        x = (x * self.param("basis", nn.initializers.normal(pixels**-0.5), x.shape[1:])).sum(axis=(1, 2))
        x = nn.Dense(width if self.num_labels else 1, use_bias=False, kernel_init=normal(1.0), name="out")(x)
        if not self.num_labels:
            return x[:, 0]
        label = nn.Embed(self.num_labels, width, embedding_init=nn.initializers.normal(width**-0.5), name="label")
        return (x * label(cond["label"])).sum(axis=-1)


class Residual(nn.Module):
    """x + convolution(act(convolution(x) + bias)), the last of which starts as 0 and the first smaller by depth^-1/2.

    That is fix-up's initialisation (Zhang et al. 2019, arXiv 1901.09321) of `depth` blocks of two layers each.
    """

    depth: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]

        def convolution(name, y, kernel_init):
            return nn.Conv(width, (3, 3), use_bias=False, kernel_init=kernel_init, dtype=self.dtype, name=name)(y)

        y = convolution("conv_1", x, normal(GAIN * self.depth**-0.5))
        y = nn.leaky_relu(y + self.param("bias", nn.initializers.zeros, (width,)).astype(y.dtype), SLOPE)
        return x + convolution("conv_2", y, nn.initializers.zeros)


def pointwise(name, x, features, dtype):
    """A 1x1 convolution without a bias, in a compact method."""
    return nn.Dense(features, use_bias=False, kernel_init=normal(1.0), dtype=dtype, name=name)(x)
