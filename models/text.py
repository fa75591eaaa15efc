"""Text as the rest of the code sees it: captions to tokens, tokens to embeddings, and what stands for no text.

Axes: b examples, l tokens (a fixed length), d the encoder's width. What travels, and under which names:

    batch   `tokens` int32 [b l], `text_mask` bool [b l]      captions tokenised on the host, encoded in the step
            `text` bfloat16 [b l d], `text_mask` bool [b l]   embeddings made before by tools/embed_captions.py
    cond    `text` float [b l d], `text_mask` bool [b l]      what a network attends to
            `tokens` int32 [b l], `text_mask` bool [b l]      where the encoder is a part of the network

`text_mask` is True at tokens, which come first in a row, and False at padding. Embeddings are 0 at padding, and
padding changes nothing at tokens. The empty prompt is one token, the end of the sentence.

No text is `no_text(cond)`: zeros, and a mask that is False everywhere. Both are replaced, since a mask that stays would
tell the caption's length. A network must give finite numbers for a row whose mask is False throughout, without
reading it: attention over such a row is 0. `text` is then exactly 0 with either kind of encoder.

A frozen encoder's parameters are an argument of every program, `frozen`, read once by `load`. A learned encoder is
`module`, which the network holds as a submodule and calls as module(tokens, mask) -> [b l d].
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from models import hf_weights, huggingface, t5
from models.tokenizers import BYTE_TOKENS, Tokens, byte_tokenizer, sentencepiece_tokenizer


class TextEncoder(NamedTuple):
    """One of three kinds: frozen (load and encode), on the host (encode, not traced), learned (module)."""

    tokenise: Callable[[Sequence[str]], Tokens]
    width: int  # d
    length: int  # l
    load: Callable[..., Any] = lambda shardings=None: None  # shardings(name, shape) -> Sharding -> its parameters
    abstract: Callable[[], Any] = lambda: None  # their shapes and types
    encode: Callable | None = None  # (params, tokens [b l], mask [b l]) -> [b l d]; None: learned
    traced: bool = True  # False: encode runs on the host, outside of jit, on NumPy arrays
    module: nn.Module | None = None  # learned with the network


def batch_of(encoder: TextEncoder, prompts: Sequence[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(the text part of a batch of these prompts, which of them were cut bool [n])."""
    tokens, mask, cut = encoder.tokenise(prompts)
    if encoder.traced:
        return {"tokens": tokens, "text_mask": mask}, cut
    return {"text": encoder.encode(None, tokens, mask), "text_mask": mask}, cut


def condition(encoder: TextEncoder, params, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The text part of a batch -> of a cond. params: what encoder.load gave. Runs inside of jit."""
    mask = batch["text_mask"]
    if "text" in batch:
        return {"text": batch["text"], "text_mask": mask}
    if encoder.encode is None:
        return {"tokens": batch["tokens"], "text_mask": mask}
    return {"text": encoder.encode(params, batch["tokens"], mask), "text_mask": mask}


def no_text(cond: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The text part of a cond -> that of no text, of the same shapes and types."""
    return jax.tree.map(jnp.zeros_like, cond)


def byte_encoder(
    *, length: int, width: int = 128, layers: int = 2, heads: int = 4, dtype: str = "float32"
) -> TextEncoder:
    """UTF-8 bytes through a small T5, learned with the network: no weights, no tokenizer, any script."""
    checked_length(length)
    if min(width, layers, heads) < 1 or width % heads:
        raise ValueError(f"width={width}, layers={layers} and heads={heads}: positive, and heads divide the width")
    size = t5.Size(width, 4 * width, heads, width // heads, layers, BYTE_TOKENS)
    module = t5.T5Encoder(size, checked_dtype(dtype))
    return TextEncoder(byte_tokenizer(length), width, length, module=module)


def t5_encoder(*, path: str, length: int = 128, dtype: str = "bfloat16") -> TextEncoder:
    """The frozen T5 v1.1 encoder of a Hugging Face folder. dtype: of its parameters and its products."""
    checked_length(length)
    dtype = checked_dtype(dtype)
    size = t5.size_of(hf_weights.read_config(path))
    module = t5.T5Encoder(size, dtype)
    tokenise = functools.cache(lambda: sentencepiece_tokenizer(path, length))

    def load(shardings=None):
        found, abstract = hf_weights.tensors(path), t5.abstract_params(size)
        return hf_weights.load(found, t5.PUBLISHED, abstract, shardings, dtype, t5.NOT_ENCODER)

    def abstract():
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), t5.abstract_params(size))

    def encode(params, tokens, mask):
        # An accelerator's default for float32 is a product of bfloat16s.
        with jax.default_matmul_precision("highest" if dtype == jnp.float32 else None):
            return module.apply({"params": params}, tokens, mask)

    return TextEncoder(lambda prompts: tokenise()(prompts), size.width, length, load, abstract, encode)


def hf_encoder(*, path: str, length: int) -> TextEncoder:
    """Any encoder of a Hugging Face folder, frozen, through transformers and torch on the host: CLIP, BERT, ..."""
    checked_length(length)
    config = hf_weights.read_config(path)
    width, path = huggingface.width_of(config, length), os.path.expanduser(path)
    encode = huggingface.encode(path, config.get("model_type"))
    return TextEncoder(huggingface.tokenizer(path, length), width, length, encode=encode, traced=False)


def checked_length(length: int) -> None:
    if length < 1:
        raise ValueError(f"length={length} must be 1 or more tokens")


def checked_dtype(dtype: str):
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype={dtype!r} must be float32 or bfloat16; float16 overflows")
    return jnp.dtype(dtype)


TEXT_ENCODERS: dict[str, Callable[..., TextEncoder]] = {"bytes": byte_encoder, "t5": t5_encoder, "hf": hf_encoder}
