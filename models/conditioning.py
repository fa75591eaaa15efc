"""What a network is told beside the image: the noise level, a label, a text, the augmentation level of its input."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from models.layers import Style, split_heads


def with_text(encoder, cond):
    """The condition with its 'tokens' as 'text', by an encoder that is a part of the network; itself without tokens."""
    if "tokens" not in cond:
        return cond
    return cond | {"text": encoder(cond["tokens"], cond["text_mask"])}


def beside(x, cond):
    """x [b h w c] with the images of its size that a network is told joined to its channels: 'low_res', 'known'."""
    return jnp.concatenate([x, *(cond[name] for name in ("low_res", "known") if name in cond)], axis=-1)


def embed(style: Style, channels: int, num_labels: int, noise_input, cond):
    """swish of the embedding [b 4 channels] that every block is told; float32. Called inside a compact method.

    The sum of what the noise level (noise_input [b]) says and, where cond has them, 'label' [b], the pooled 'text'
    [b l d] with its 'text_mask' [b l], and 'aug_level' [b] in [0, 1], which has a sinusoid and layers of its own.
    """
    width = 4 * channels

    def number(name, value):
        hidden = style.dense(f"{name}_1", style.convention.sinusoid(value, channels), width, dtype=jnp.float32)
        return style.dense(f"{name}_2", nn.silu(hidden), width, dtype=jnp.float32)

    emb = number("time", noise_input)
    if num_labels:
        rows = nn.Embed(num_labels, width, embedding_init=nn.initializers.normal(1.0), name="label")
        emb = emb + rows(cond["label"])
    if "text" in cond:
        emb = emb + AttentionPool(style, width, name="text")(cond["text"], cond["text_mask"])
    if "aug_level" in cond:
        emb = emb + number("aug", 1000 * cond["aug_level"])
    return nn.silu(emb)


class AttentionPool(nn.Module):
    """One vector [b features] float32 of a text [b l d]: the mean of its tokens attends to itself and to each of them.

    mask [b l] bool: what lies past it changes nothing, and a text of no tokens has a mean of 0, and is no NaN.
    Source: the pooling of CLIP's image encoder (Radford et al. 2021), on text as Imagen does; 8 heads.
    """

    style: Style
    features: int
    heads: int = 8

    @nn.compact
    def __call__(self, text, mask):
        style = self.style
        text = style.layer_norm("norm", text)
        kept = mask[:, :, None]
        mean = jnp.where(kept, text, 0).sum(1, keepdims=True) / jnp.maximum(kept.sum(1, keepdims=True), 1)
        tokens = jnp.concatenate([mean.astype(text.dtype), text], axis=1)
        mask = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        query, key, value = (
            split_heads(style.dense(name, of, self.features), self.heads)
            for name, of in (("query", tokens[:, :1]), ("key", tokens), ("value", tokens))
        )
        pooled = jax.nn.dot_product_attention(query, key, value, mask=mask[:, None, None, :])
        return style.dense("out", pooled.reshape(len(text), self.features), self.features, dtype=jnp.float32)


def check_told(cond, num_labels: int, takes: tuple[str, ...], name: str) -> None:
    """Raises ValueError where a condition has what a network has no layers for, or lacks the label that it has."""
    if surplus := sorted(cond.keys() - {"label", *takes}):
        raise ValueError(f"model.name={name} takes {', '.join(('label', *takes))}, but the task also tells {surplus}")
    if num_labels and "label" not in cond:
        raise ValueError(f"num_labels is {num_labels}, but cond has no 'label': {sorted(cond)}")
