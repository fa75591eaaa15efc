"""A convolutional variational autoencoder (Kingma and Welling 2014), built as AutoencoderKL of latent diffusion is.

mean, log_variance = vae.apply(params, x, label, method="encode")       # [b h w c] -> [b h/f w/f latent] each
x = vae.apply(params, z, label, method="decode")
"""

import flax.linen as nn
import jax.numpy as jnp

from models.checks import check_values
from models.layers import CONVENTIONS, Attention, ResBlock, Style, double

MOST, LEAST = 20.0, -30.0  # of a log variance (Rombach et al. 2022)


class VAE(nn.Module):
    """Encoder and decoder of residual blocks, level i of both at size / 2^i with `multipliers[i] * channels` channels.

    size: nominal side of the images; the lowest level's is that of the latents, 1 for one vector an image.
    out_channels: the image's channels. latent: the latents'.
    blocks: residual blocks a level of the encoder, one more of the decoder. The middle of both has attention.
    num_labels: rows of the label embeddings that both are told. 0: no labels.
    pointwise: 1x1 convolutions on both sides of the latents, as published weights have them.
    convention, groups, dtype: as those of models/unet.py.

    Raises ValueError when constructed where fields contradict each other.
    """

    size: int
    out_channels: int
    latent: int
    channels: int
    multipliers: tuple[float, ...]
    blocks: int
    num_labels: int = 0
    pointwise: bool = False
    convention: str = "ddpm"
    groups: int = 32
    dtype: str = "float32"

    def __post_init__(self):
        super().__post_init__()
        check(self)

    def setup(self):
        self.encoder = Encoder(self._style, self.levels, self.blocks, 2 * self.latent)
        self.decoder = Decoder(self._style, self.levels, self.blocks, self.out_channels)
        if self.num_labels:
            self.label = nn.Embed(self.num_labels, 4 * self.channels, embedding_init=nn.initializers.normal(1.0))
        if self.pointwise:
            self.quant, self.post_quant = nn.Dense(2 * self.latent), nn.Dense(self.latent)

    def encode(self, x, label=None):
        """Mean and log variance of the latents, each [b h/f w/f latent] float32, of images x [b h w c]."""
        moments = self.encoder(x, self._told(label))
        moments = self.quant(moments) if self.pointwise else moments
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, LEAST, MOST)

    def decode(self, z, label=None):
        """Images [b h w c] float32, of any range, of latents z."""
        return self.decoder(self.post_quant(z) if self.pointwise else z, self._told(label))

    def __call__(self, x, label=None):
        return self.decode(self.encode(x, label)[0], label)

    def _told(self, label):
        return nn.silu(self.label(label)) if self.num_labels else None

    @property
    def _style(self):
        return Style(CONVENTIONS[self.convention], self.groups, jnp.dtype(self.dtype))

    @property
    def levels(self):
        """(nominal size, channels) of each level, from the images down."""
        return tuple((self.size >> i, int(m * self.channels)) for i, m in enumerate(self.multipliers))

    @property
    def factor(self):
        """How many times smaller than an image's the latents' sides are."""
        return 2 ** (len(self.multipliers) - 1)


class Encoder(nn.Module):
    style: Style
    levels: tuple[tuple[int, int], ...]
    blocks: int
    features: int

    @nn.compact
    def __call__(self, x, emb):
        style, last = self.style, self.levels[-1][0]
        x = style.conv("conv_in", x, self.levels[0][1])
        for size, width in self.levels:
            for i in range(self.blocks):
                x = block(style, f"down_{size}_{i}", x, emb, width)
            if size != last:
                x = style.conv(f"down_{size}_resample", x, width, stride=2)
        x = middle(style, x, emb)
        x = nn.silu(style.norm("norm_out", x, jnp.float32))
        return style.conv("conv_out", x, self.features, dtype=jnp.float32)


class Decoder(nn.Module):
    style: Style
    levels: tuple[tuple[int, int], ...]
    blocks: int
    features: int

    @nn.compact
    def __call__(self, z, emb):
        style, first = self.style, self.levels[0][0]
        x = middle(style, style.conv("conv_in", z, self.levels[-1][1]), emb)
        for size, width in reversed(self.levels):
            for i in range(self.blocks + 1):
                x = block(style, f"up_{size}_{i}", x, emb, width)
            if size != first:
                x = style.conv(f"up_{size}_resample", double(x), width)
        x = nn.silu(style.norm("norm_out", x, jnp.float32))
        return style.conv("conv_out", x, self.features, zero=True, dtype=jnp.float32)


def block(style, name, x, emb, width):
    return ResBlock(style, width, scale_shift=False, dropout=0.0, name=name)(x, emb)


def middle(style, x, emb):
    width = x.shape[-1]
    x = block(style, "mid_0", x, emb, width)
    x = Attention(style, heads=1, name="mid_attention")(x)
    return block(style, "mid_1", x, emb, width)


def check(net: VAE) -> None:
    least = dict(size=1, out_channels=1, latent=1, channels=1, blocks=1, groups=1, num_labels=0)
    check_values(net, {"convention": tuple(CONVENTIONS)}, **least)
    if not net.multipliers:
        raise ValueError("multipliers is empty: give one number a level")
    if net.size % net.factor:
        levels = len(net.multipliers)
        raise ValueError(
            f"size is {net.size}, which {levels} multipliers halve {levels - 1} times: "
            f"give a multiple of {net.factor}, or fewer multipliers"
        )
    for size, width in net.levels:
        if not width or width % net.groups:
            raise ValueError(f"groups is {net.groups}, which does not divide the {width} channels of level {size}")
