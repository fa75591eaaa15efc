"""What a U-Net is built of: sinusoids, layers in one of two conventions, residual and attention blocks.

Parameters are float32 and `Style.dtype` is what blocks compute in. Norms take their statistics, and
attention its softmax, in float32 whatever the dtype. Images are b h w c; an embedding is b d.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name


def ddpm_sinusoid(t, width):
    """sin | cos of t [b] at width/2 frequencies from 1 down to 1e-4. Returns [b width] float32."""
    angles = _angles(t, width // 2, last=width // 2 - 1)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def adm_sinusoid(t, width):
    """cos | sin of t [b] at width/2 frequencies from 1 to just above 1e-4. Returns [b width] float32."""
    angles = _angles(t, width // 2, last=width // 2)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def _angles(t, count, last):
    # float32 under any compute dtype: bfloat16 holds 8 bits, and would merge the levels 996..999.
    frequencies = np.exp(-math.log(1e4) * np.arange(count) / last).astype(np.float32)
    return t.astype(jnp.float32)[:, None] * frequencies


def zero_bias(fan_in):
    """Biases of 0, whatever the fan-in."""
    return nn.initializers.zeros


def uniform_bias(fan_in):
    """Biases uniform in +-fan_in^-1/2, as torch draws those of its linear layers and convolutions."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


@dataclass(frozen=True)
class Convention:
    """What papers leave to their code. Weights move between code bases only if all of it agrees."""

    sinusoid: Callable  # (t [b], width) -> [b width]
    norm_eps: float
    kernel_init: Callable
    bias_init: Callable  # fan_in -> initialiser
    halving: tuple[int, int]  # a stride-2 convolution's padding before and after, on both axes
    small_init: Callable = nn.initializers.zeros  # of the layers that start as nothing, or nearly
    attention_init: Callable | None = None  # of query, key and value; None: kernel_init
    group_channels: int = 1  # a group norm has fewer groups where they would have fewer channels than this
    residual: float = 1.0  # the factor on every sum of a block and its shortcut


CONVENTIONS = {
    # Ho et al. 2020. TensorFlow's SAME pads a stride-2 convolution at the bottom and right only.
    "ddpm": Convention(
        sinusoid=ddpm_sinusoid,
        norm_eps=1e-6,
        kernel_init=nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
        bias_init=zero_bias,
        halving=(0, 1),
    ),
    # Nichol and Dhariwal 2021, Dhariwal and Nichol 2021: torch's defaults.
    "adm": Convention(
        sinusoid=adm_sinusoid,
        norm_eps=1e-5,
        kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
        bias_init=uniform_bias,
        halving=(1, 1),
    ),
}


@dataclass(frozen=True)
class Style:
    """How one network's layers are made: each method applies one, named in the module that calls.

    `zero` starts a layer at exact 0, or at the convention's small_init: the second convolution of a residual
    block, attention's output and the network's last convolution, so that every block starts as its shortcut and
    the network as 0. (DDPM's code draws these with variance scale 1e-10 instead; ADM's are exact.)
    """

    convention: Convention
    groups: int
    dtype: Any = jnp.float32
    attend: Callable = jax.nn.dot_product_attention  # or what does the same work faster (training/flash.py)

    def norm(self, name, x, dtype=None):
        # Flax's variance is E[x^2] - E[x]^2 in float32: half the time of two passes over x, and off by
        # 2e-3 only where a group's mean is 30 times its deviation.
        convention = self.convention
        groups = min(self.groups, x.shape[-1] // convention.group_channels)
        return nn.GroupNorm(groups, epsilon=convention.norm_eps, dtype=dtype or self.dtype, name=name)(x)

    def layer_norm(self, name, x):
        return nn.LayerNorm(epsilon=self.convention.norm_eps, dtype=self.dtype, name=name)(x)

    def bare_layer_norm(self, x, dtype=None):
        """A layer norm without scale and bias, for an embedding to give them."""
        eps, dtype = self.convention.norm_eps, dtype or self.dtype
        return nn.LayerNorm(epsilon=eps, use_scale=False, use_bias=False, dtype=dtype)(x)

    def dense(self, name, x, features, zero=False, dtype=None):
        inits = self._inits(x.shape[-1], zero)
        return nn.Dense(features, dtype=dtype or self.dtype, name=name, **inits)(x)

    def attending(self, name, x, features):
        """The layer of an attention's query, key or value."""
        inits = self._inits(x.shape[-1], zero=False)
        inits["kernel_init"] = self.convention.attention_init or inits["kernel_init"]
        return nn.Dense(features, dtype=self.dtype, name=name, **inits)(x)

    def conv(self, name, x, features, stride=1, zero=False, dtype=None):
        """A 3x3 convolution, [b h w c] -> [b h/stride w/stride features], of stride 1 or 2."""
        padding = [(1, 1) if stride == 1 else self.convention.halving] * 2
        inits = self._inits(9 * x.shape[-1], zero)
        dtype = dtype or self.dtype
        return nn.Conv(features, (3, 3), stride, padding, dtype=dtype, name=name, **inits)(x)

    def joined(self, x, h):
        """A block's output h and its shortcut x, at the convention's scale."""
        return (x + h) * self.convention.residual if self.convention.residual != 1 else x + h

    def _inits(self, fan_in, zero):
        convention = self.convention
        if zero:
            return dict(kernel_init=convention.small_init, bias_init=nn.initializers.zeros)
        return dict(kernel_init=convention.kernel_init, bias_init=convention.bias_init(fan_in))


def heavy(primitive, *_, **params) -> bool:
    """The results that REMAT['dots'] keeps: of what costs arithmetic, training/flash.py's kernel included."""
    return primitive.name in ("dot_general", "conv_general_dilated") or params.get("name") == "attended"


# What of each block the backward pass computes again rather than keeps: nothing, all but the block's input, or norms
# and nonlinearities (all that is not a matrix product or a convolution).
REMAT = {"none": lambda block: block, "blocks": nn.remat, "dots": partial(nn.remat, policy=heavy)}


def same(x):
    return x


def halve(x):
    """Means over 2x2 pixels. [b h w c] -> [b h/2 w/2 c]."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def double(x):
    """Each pixel four times (nearest neighbour). [b h w c] -> [b 2h 2w c]. Named for training/sharding.kept."""
    return checkpoint_name(x.repeat(2, axis=1).repeat(2, axis=2), "doubled")


def dropout(key, x, rate):
    """x with a share `rate` of its elements 0 and the others larger by 1 / (1 - rate).

    The mask is drawn once and kept for the backward pass: a TPU's compiler, left alone, draws it again inside each of
    the convolutions that read the result, at a hundred integer operations an element.
    """
    kept = jax.lax.optimization_barrier(jax.random.bernoulli(key, 1 - rate, x.shape))
    return jnp.where(kept, x / (1 - rate), 0).astype(x.dtype)


class ResBlock(nn.Module):
    """norm, swish, convolution, twice, over a shortcut (DDPM, appendix B); ADM's variants by flags.

    scale_shift: the embedding scales and shifts the second norm (ADM's AdaGN), else it is
    added before it. resample: `halve` or `double` both branches (BigGAN's block). dropout: a rate,
    0 outside training. project: the shortcut is a 1x1 convolution even where the channels stay (Imagen).
    Called with x [b h w c] and emb [b d], None where nothing is told; returns [b h' w' features].
    """

    style: Style
    features: int
    scale_shift: bool
    dropout: float
    resample: Callable = same
    project: bool = False

    @nn.compact
    def __call__(self, x, emb):
        style = self.style
        h = self.resample(nn.silu(style.norm("norm_1", x)))
        h = style.conv("conv_1", h, self.features)
        h = nn.silu(self._condition(h, emb))
        if self.dropout:
            h = dropout(self.make_rng("dropout"), h, self.dropout)
        h = style.conv("conv_2", h, self.features, zero=True)
        x = self.resample(x)
        if self.project or x.shape[-1] != self.features:
            x = style.dense("shortcut", x, self.features)
        return style.joined(x, h)

    @nn.nowrap
    def _condition(self, h, emb):
        style, width = self.style, self.features
        if emb is None:
            return style.norm("norm_2", h)
        emb = style.dense("embedding", emb, 2 * width if self.scale_shift else width)
        emb = emb[:, None, None, :]
        if not self.scale_shift:
            return style.norm("norm_2", h + emb)
        scale, shift = jnp.split(emb, 2, axis=-1)
        return style.norm("norm_2", h) * (1 + scale) + shift


def split_heads(x, heads):
    """[b l c] -> [b l heads c/heads]."""
    return x.reshape(*x.shape[:2], heads, -1)


class Attention(nn.Module):
    """Attention of all pixels, added to x [b h w c]; logits scaled by (width / heads)^-1/2.

    width: channels of query, key and value; 0: c. own: pixels are among the keys; without, the text is all there is
    (cross-attention). text [b l d] joins keys and values after a layer norm (Imagen, D.3.1); mask [b l] bool: what
    lies past it changes nothing. Cross-attention to a text of no tokens adds nothing but its bias.

    query, key and value are separate [c, heads * c/heads] kernels, heads outermost, so that imported
    weights only need slicing: DDPM's as they are; of ADM's fused rows, [3, heads, c/heads] in the new
    attention order and [heads, 3, c/heads] in the legacy one.
    """

    style: Style
    heads: int
    width: int = 0
    own: bool = True

    @nn.compact
    def __call__(self, x, text=None, mask=None):
        b, h, w, c = x.shape
        style, width = self.style, self.width or c
        y = style.norm("norm", x).reshape(b, h * w, c)
        keys, values, masks = [], [], []

        def attend_to(prefix, tokens, mask):
            keys.append(style.attending(f"{prefix}key", tokens, width))
            values.append(style.attending(f"{prefix}value", tokens, width))
            masks.append(mask)

        if self.own:
            attend_to("", y, jnp.ones((b, h * w), bool))
        if text is not None:
            attend_to("text_", style.layer_norm("text_norm", text), mask)
        query, key, value = (
            split_heads(z, self.heads)
            for z in (style.attending("query", y, width), jnp.concatenate(keys, 1), jnp.concatenate(values, 1))
        )
        mask = None if text is None else jnp.concatenate(masks, 1)[:, None, None]
        # Logits and softmax are float32 under bfloat16 here, which an einsum of one's own must say.
        attend = style.attend if self.own else jax.nn.dot_product_attention  # which takes a text of no tokens
        y = attend(query, key, value, mask=mask)
        if not self.own:
            y = jnp.where(mask.any(-1, keepdims=True), y, 0)  # no key at all is answered with the mean of all values
        return style.joined(x, style.dense("out", y.reshape(b, h, w, width), c, zero=True))
