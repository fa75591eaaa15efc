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

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class Tokens(NamedTuple):
    """Prompts as numbers. cut: the prompts that were longer than the length, which lost their end."""

    tokens: np.ndarray  # int32 [n l]
    mask: np.ndarray  # bool [n l]
    cut: np.ndarray  # bool [n]


class TextEncoder(NamedTuple):
    """One of three kinds: frozen (load and encode), on the host (encode, not traced), learned (module)."""

    tokenise: Callable[[Sequence[str]], Tokens]
    width: int  # d
    length: int  # l
    load: Callable[..., Any] = lambda shardings=None: None  # shardings(name, shape) -> Sharding -> its parameters
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
