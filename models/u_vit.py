"""The U-ViT of simple diffusion (Hoogeboom et al. 2023, arXiv 2301.11093): convolutions around a transformer.

Another network than the U-ViT of Bao et al. 2022, which has the same name.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.checks import check_levels, check_sides, check_values
from models.conditioning import beside, check_told, embed, with_text
from models.dit import patches, positions, stacked, unpatched
from models.layers import CONVENTIONS, REMAT, ResBlock, Style, double, halve


class UViT(nn.Module):
    """A U-Net whose last level, at 16x16 in the paper, is a transformer, and has most of the parameters.

    size, out_channels, channels, multipliers, blocks, num_heads, num_labels, text_encoder, groups, remat, dtype,
        attend: as in UNet, of the levels above the last; level i has images of size / patch / 2^i, and blocks as many
        residual blocks on either way, each given one skip. Levels are halved by means and doubled by nearest
        neighbours.
    middle: transformer blocks of the last level. They are DiT's: the paper prints no details of its own.
    patch: side of the patches that the image is cut into first, for large images (the paper's downsampling).
    dropout: of the transformer alone, as the paper found best: not of high resolutions.

    Raises ValueError when constructed, so before any compilation, if fields contradict each other.
    """

    size: int
    out_channels: int
    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    middle: int
    num_heads: int
    patch: int = 1
    num_labels: int = 0
    text_encoder: nn.Module | None = None
    dropout: float = 0.0
    groups: int = 32
    remat: str = "none"
    dtype: str = "float32"
    attend: Callable = jax.nn.dot_product_attention

    def __post_init__(self):
        super().__post_init__()
        _check(self)

    @nn.compact
    def __call__(self, x, noise_input, cond, train=False):
        """Map x [b h w c] and noise_input [b] to an output [b h w out_channels] float32; cond and train as in UNet.

        Raises ValueError for sides that patches and levels do not divide.
        """
        takes = ("text", "tokens", "text_mask", "low_res", "known", "aug_level")
        check_told(cond, self.num_labels, takes, "u_vit")
        style = Style(CONVENTIONS["adm"], self.groups, jnp.dtype(self.dtype), self.attend)
        levels = self.levels
        cond = with_text(self.text_encoder, cond)
        told = embed(style, self.channels, self.num_labels, noise_input, cond)
        resnet = partial(self._resnet, style, told)

        x = beside(x, cond)
        if x.shape[1] % self.patch or x.shape[2] % self.patch:
            raise ValueError(f"images are {x.shape[1]} x {x.shape[2]}: give sides that are multiples of {self.patch}")
        rows, columns = x.shape[1] // self.patch, x.shape[2] // self.patch
        x = patches(x, self.patch).reshape(len(x), rows, columns, -1)
        check_sides(self, x)
        x = style.conv("conv_in", x, levels[0][1])
        skips = []
        for size, width in levels[:-1]:
            for i in range(self.blocks):
                x = resnet(f"down_{size}_{i}", x, width)
                skips.append(x)
            x = halve(x)

        x = self._transform(style, x, told, train)

        for size, width in reversed(levels[:-1]):
            x = double(style.dense(f"up_{size}_in", x, width))
            for i in range(self.blocks):
                x = resnet(f"up_{size}_{i}", jnp.concatenate([x, skips.pop()], axis=-1), width)

        x = nn.silu(style.norm("norm_out", x, jnp.float32))
        x = style.conv("conv_out", x, self.patch**2 * self.out_channels, zero=True, dtype=jnp.float32)
        return unpatched(x, rows, columns, self.patch)

    @property
    def levels(self):
        """(nominal size, channels) of each level, from the patches down."""
        return [(self.size // self.patch >> i, int(m * self.channels)) for i, m in enumerate(self.multipliers)]

    @property
    def attention(self):
        return (self.levels[-1][0],)

    @nn.nowrap
    def _resnet(self, style, told, name, x, width):
        return REMAT[self.remat](ResBlock)(style, width, True, 0.0, name=name)(x, told)

    @nn.nowrap
    def _transform(self, style, x, told, train):
        """The last level, x [b h w c] -> [b h w d]."""
        (_, h, w, _), (_, width) = x.shape, self.levels[-1]
        x = style.dense("tokens_in", x.reshape(len(x), h * w, -1), width)
        x = x + jnp.asarray(positions(h, w, width), x.dtype)
        dropout = self.dropout if train else 0.0
        x = stacked("transformer", self.middle, self.remat, style, self.num_heads, dropout)(x, told)
        return style.bare_layer_norm(x).reshape(len(x), h, w, width)


def _check(net):
    check_values(net, size=1, out_channels=1, channels=4, blocks=1, middle=1, num_heads=1, patch=1, num_labels=0)
    if net.size % net.patch:
        raise ValueError(f"size is {net.size}, which patches of {net.patch} do not divide: change patch")
    check_levels(net)
    width = net.levels[-1][1]
    if width % 4 or width % net.num_heads:
        raise ValueError(f"the last level has {width} channels: give a multiple of 4 and of num_heads={net.num_heads}")
    if uneven := [width for _, width in net.levels[:-1] if not width or width % net.groups]:
        raise ValueError(f"groups is {net.groups}, which does not divide {uneven} channels: change groups or channels")
