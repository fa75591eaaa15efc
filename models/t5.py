"""The encoder of T5 v1.1 (Raffel et al. 2020, arXiv 1910.10683; v1.1: gated GELU, Shazeer 2020, arXiv 2002.05202).

    T5Encoder(SIZES["xxl"], dtype=jnp.bfloat16).apply({"params": params}, tokens, mask)      # [b l d]

Axes: b l d, and h heads. The blocks' parameters are stacked along a leading axis and scanned over, so that a program
of 24 blocks compiles as one of a single block does. Small sizes trained from the start are encoders of bytes.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models.hf_weights import Piece

BUCKETS, MAX_DISTANCE, NORM_EPS = 32, 128, 1e-6
PAD, EOS = 0, 1


class Size(NamedTuple):
    """What tells one encoder from another."""

    width: int  # d
    hidden: int  # of the feed-forward layers
    heads: int
    head_width: int
    layers: int
    vocabulary: int = 32128


SIZES = {
    "small": Size(512, 1024, 6, 64, 8),
    "base": Size(768, 2048, 12, 64, 12),
    "large": Size(1024, 2816, 16, 64, 24),
    "xl": Size(2048, 5120, 32, 64, 24),
    "xxl": Size(4096, 10240, 64, 64, 24),
}


def relative_bucket(offset: np.ndarray) -> np.ndarray:
    """The bucket, 0 to 31, of a key's position less the query's: sign, then exact below 8, then by logarithm to 128.

    The original, 8 + int(log(d / 8) / log(16) * 8), is d^2 >= 64 * 2^k counted over k: here in whole numbers, since
    its logarithms fall on either side of 16, 32 and 64 as they are rounded.
    """
    distance = np.abs(offset)
    far = 8 + sum((distance**2 >= 64 * 2**k).astype(np.int32) for k in range(1, 8))
    return np.where(distance < 8, distance, far) + BUCKETS // 2 * (offset > 0)


class T5Encoder(nn.Module):
    """Embedding, blocks, norm. Called with tokens int32 [b l] and mask bool [b l], returns `dtype` [b l d].

    Tokens whose mask is False change no other, and give 0; a row without any True is all 0. Matrices multiply in
    `dtype`; sums along the blocks, norms and softmax are float32, since activations of the large sizes overflow float16
    and grow past what bfloat16 adds up.
    """

    size: Size
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens, mask):
        size, length = self.size, tokens.shape[1]
        normal = nn.initializers.normal
        x = nn.Embed(size.vocabulary, size.width, embedding_init=normal(1.0), name="tokens")(tokens)
        offset = np.arange(length)[None, :] - np.arange(length)[:, None]  # [query, key]
        bias = nn.Embed(BUCKETS, size.heads, embedding_init=normal(size.width**-0.5), name="relative_bias")(
            relative_bucket(offset)
        )
        blocks = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=size.layers,
        )(size, self.dtype, name="blocks")
        bias = jnp.moveaxis(bias, -1, 0)[None].astype(jnp.float32)  # [1 h l l]
        x, _ = blocks(x.astype(jnp.float32), bias, mask[:, None, None, :])
        return jnp.where(mask[:, :, None], norm("norm")(x), 0).astype(self.dtype)


class Block(nn.Module):
    """Attention, then a gated feed-forward layer, each on a norm and added: x float32 [b l d] -> (the same, None).

    Attention's logits are not divided by the root of the head's width (T5 folds it into the initial weights). The
    bias [1 h l l] is shared by all blocks. mask: bool [b 1 1 l].
    """

    size: Size
    dtype: Any

    @nn.compact
    def __call__(self, x, bias, mask):
        size, d = self.size, self.size.width
        inner = size.heads * size.head_width
        dense = self._dense
        y = norm("attention_norm")(x)
        q = dense("query", inner, (d * size.head_width) ** -0.5)(y)
        k, v = (dense(name, inner, d**-0.5)(y) for name in ("key", "value"))
        q, k, v = (part.reshape(*part.shape[:2], size.heads, size.head_width) for part in (q, k, v))
        y = jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask, scale=1.0)
        x = x + dense("out", d, inner**-0.5)(y.reshape(*y.shape[:2], inner))
        y = norm("hidden_norm")(x)
        y = nn.gelu(dense("wi_0", size.hidden, d**-0.5)(y)) * dense("wi_1", size.hidden, d**-0.5)(y)
        return x + dense("wo", d, size.hidden**-0.5)(y), None

    @nn.nowrap
    def _dense(self, name, features, std):
        init = nn.initializers.normal(std)
        return nn.Dense(features, use_bias=False, dtype=self.dtype, kernel_init=init, name=name)


def norm(name: str) -> nn.RMSNorm:
    """x / rms(x) * scale, in float32."""
    return nn.RMSNorm(epsilon=NORM_EPS, dtype=jnp.float32, name=name)


def size_of(config: dict) -> Size:
    """The size that a Hugging Face folder's config.json gives; ValueError where it is no T5 v1.1 encoder."""
    required = {"relative_attention_num_buckets": BUCKETS, "relative_attention_max_distance": MAX_DISTANCE}
    required |= {"model_type": "t5", "feed_forward_proj": "gated-gelu", "layer_norm_epsilon": NORM_EPS}
    assumed = {"relative_attention_max_distance": MAX_DISTANCE}  # older files leave it out
    for key, value in required.items():
        found = config.get(key, assumed.get(key))
        if found != value:
            raise ValueError(f"config.json is not that of a T5 v1.1: {key} is {found!r}, not {value!r}")
    keys = ("d_model", "d_ff", "num_heads", "d_kv", "num_layers", "vocab_size")
    if lacking := [key for key in keys if key not in config]:
        raise ValueError(f"config.json lacks {', '.join(lacking)}")
    return Size(*(config[key] for key in keys))


# Where the parameters lie in Hugging Face's files, and what else those of the whole T5 hold.
PUBLISHED = {
    "tokens/embedding": Piece("shared.weight", also="encoder.embed_tokens.weight"),
    "relative_bias/embedding": Piece("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    "blocks/attention_norm/scale": Piece("encoder.block.{}.layer.0.layer_norm.weight"),
    "blocks/query/kernel": Piece("encoder.block.{}.layer.0.SelfAttention.q.weight", transposed=True),
    "blocks/key/kernel": Piece("encoder.block.{}.layer.0.SelfAttention.k.weight", transposed=True),
    "blocks/value/kernel": Piece("encoder.block.{}.layer.0.SelfAttention.v.weight", transposed=True),
    "blocks/out/kernel": Piece("encoder.block.{}.layer.0.SelfAttention.o.weight", transposed=True),
    "blocks/hidden_norm/scale": Piece("encoder.block.{}.layer.1.layer_norm.weight"),
    "blocks/wi_0/kernel": Piece("encoder.block.{}.layer.1.DenseReluDense.wi_0.weight", transposed=True),
    "blocks/wi_1/kernel": Piece("encoder.block.{}.layer.1.DenseReluDense.wi_1.weight", transposed=True),
    "blocks/wo/kernel": Piece("encoder.block.{}.layer.1.DenseReluDense.wo.weight", transposed=True),
    "norm/scale": Piece("encoder.final_layer_norm.weight"),
}
NOT_ENCODER = ("decoder.", "lm_head.")


def abstract_params(size: Size) -> dict:
    """Shapes of the parameters, without making them."""
    tokens, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
    return jax.eval_shape(T5Encoder(size).init, jax.random.key(0), tokens, mask)["params"]
