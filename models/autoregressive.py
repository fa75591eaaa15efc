"""A causal transformer over the values of an image, and the same with its keys and values kept from place to place.

Axes: b examples, l values of an image in the order they are drawn, n those of them that a call is about, c channels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.checks import check_values
from models.layers import REMAT, split_heads

# One (keys, values) [b l heads c/heads] for each block: what is computed of the places before.
Cache = tuple[tuple[jax.Array, jax.Array], ...]


class Transformer(nn.Module):
    """Logits of each value given the values before it, pre-norm (GPT-2, Radford et al. 2019; on pixels iGPT, 2020).

    length: values of an image (l). values: how many a value may be; the row past them in the embedding stands
        for the beginning, where there is none before.
    channels: width c. blocks: attention and a layer of width 4 c, each on a shortcut of its own. num_heads: divide c.
    num_labels: rows of the label embedding, which every place is told. 0: no labels.
    dropout: on what each half of a block adds. remat: as the U-Net's (layers.REMAT).
    dtype: what the blocks compute in; parameters, shortcuts, the softmax of attention and the logits are float32.

    Every half of a block and the logits start as 0, so that untrained all values are equally likely.
    """

    length: int
    values: int
    channels: int
    blocks: int
    num_heads: int = 1
    num_labels: int = 0
    dropout: float = 0.0
    remat: str = "none"
    dtype: str = "float32"

    def __post_init__(self):
        super().__post_init__()
        check_values(self, length=1, channels=1, blocks=1, num_heads=1, num_labels=0)
        if self.channels % self.num_heads:
            raise ValueError(f"num_heads is {self.num_heads}, which does not divide the {self.channels} channels")
        if not 2 <= self.values <= 256:
            raise ValueError(f"values is {self.values}: give 2 to 256, as many as a uint8 pixel may have")

    @nn.compact
    def __call__(self, before, cond, train=False, cache: Cache | None = None, place=0):
        """before int32 [b n]: the value before each of n places -> (logits [b n values] float32, cache or None).

        The places are `place` and those after it. Without a cache they are all there is to see; with one, what it
        holds of the places before is seen too, and it comes back with theirs. cond: 'label' int32 [b] if num_labels.
        """
        x = nn.Embed(self.values + 1, self.channels, embedding_init=SMALL, name="value")(before)
        places = self.param("place", SMALL, (self.length, self.channels))
        x = x + jax.lax.dynamic_slice_in_dim(places, place, before.shape[1])
        if self.num_labels:
            x = x + nn.Embed(self.num_labels, self.channels, embedding_init=SMALL, name="label")(cond["label"])[:, None]
        block, dropout, kept = REMAT[self.remat](Block), self.dropout if train else 0.0, []
        for i in range(self.blocks):
            own = None if cache is None else cache[i]
            x, own = block(self.num_heads, dropout, jnp.dtype(self.dtype), name=f"block_{i}")(x, own, place)
            kept.append(own)
        x = nn.LayerNorm(name="norm_out")(x)
        logits = nn.Dense(self.values, kernel_init=nn.initializers.zeros, name="out")(x)
        return logits, None if cache is None else tuple(kept)

    @nn.nowrap
    def shifted(self, tokens):
        """What stands before each of the values [b l]: the beginning, then all but the last of them."""
        return jnp.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=self.values)

    @nn.nowrap
    def empty_cache(self, b: int) -> Cache:
        """The cache before the first place."""
        zeros = jnp.zeros((b, self.length, self.num_heads, self.channels // self.num_heads), jnp.dtype(self.dtype))
        return ((zeros, zeros),) * self.blocks


class Block(nn.Module):
    """x + attention(norm(x)) to the places up to each, then x + layer(norm(x)). x [b n c]."""

    heads: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, cache, place):
        b, n, c = x.shape

        def dense(name, y, features, **inits):
            return nn.Dense(features, dtype=self.dtype, name=name, **inits)(y)

        def added(name, y):
            y = dense(name, y, c, kernel_init=nn.initializers.zeros)
            return x + nn.Dropout(self.dropout, deterministic=False)(y)

        y = nn.LayerNorm(name="norm_1")(x)
        query, key, value = (split_heads(dense(name, y, c), self.heads) for name in ("query", "key", "value"))
        if cache is None:
            y = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        else:
            key, value = cache = [
                jax.lax.dynamic_update_slice_in_dim(old, new, place, axis=1) for old, new in zip(cache, (key, value))
            ]
            seen = jnp.arange(key.shape[1]) <= place + jnp.arange(n)[:, None]
            y = jax.nn.dot_product_attention(query, key, value, mask=seen[None, None])
        x = added("attention", y.reshape(b, n, c))
        y = nn.gelu(dense("hidden", nn.LayerNorm(name="norm_2")(x), 4 * c))
        return added("layer", y), cache if cache is None else tuple(cache)


SMALL = nn.initializers.normal(0.02)  # GPT-2's
