"""Prompts -> tokens, a mask, and which prompts were cut: by bytes, or by the SentencePiece model of a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

PAD, EOS = 0, 1
BYTE_TOKENS = 2 + 256  # padding, the end, and a token for each byte


class Tokens(NamedTuple):
    """Prompts as numbers, each ended by EOS. cut: those longer than the length, which lost the end of their text."""

    tokens: np.ndarray  # int32 [n l]
    mask: np.ndarray  # bool [n l], True at tokens, EOS included
    cut: np.ndarray  # bool [n]


Tokenise = Callable[[Sequence[str]], Tokens]


def byte_tokenizer(length: int) -> Tokenise:
    """UTF-8 bytes, two added to each. A prompt is cut between characters."""

    def row(prompt):
        whole = readable(prompt).encode()
        kept = whole[: length - 1].decode(errors="ignore").encode()
        return [byte + 2 for byte in kept], len(kept) < len(whole)

    return lambda prompts: _tokens([row(prompt) for prompt in prompts], length)


def sentencepiece_tokenizer(folder: str, length: int) -> Tokenise:
    """The pieces of FOLDER/spiece.model, T5's own. Text that looks like a special token is text."""
    path = Path(folder).expanduser() / "spiece.model"
    try:
        import sentencepiece
    except ImportError as error:
        raise ValueError("this tokenizer needs sentencepiece: pip install -r requirements-text.txt") from error
    if not path.is_file():
        raise ValueError(f"{path} is missing: fetch it with the weights, it is the tokenizer")
    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{path} is no SentencePiece model: {error}") from None
    if (pieces.pad_id(), pieces.eos_id()) != (PAD, EOS):
        raise ValueError(f"{path} has padding {pieces.pad_id()} and end {pieces.eos_id()}, not T5's {PAD} and {EOS}")

    def tokenise(prompts):
        rows = pieces.encode([readable(prompt) for prompt in prompts])
        return _tokens([(row[: length - 1], len(row) >= length) for row in rows], length)

    return tokenise


def readable(prompt: str) -> str:
    """The prompt with '?' for what is no character: halves of pairs, which UTF-8 cannot hold."""
    return prompt.encode(errors="replace").decode()


def _tokens(rows, length):
    """[(tokens without the end, whether it was cut)] -> Tokens."""
    found = Tokens(np.full((len(rows), length), PAD, np.int32), np.zeros((len(rows), length), bool), None)
    for i, (row, _) in enumerate(rows):
        found.tokens[i, : len(row) + 1] = [*row, EOS]
        found.mask[i, : len(row) + 1] = True
    return found._replace(cut=np.array([cut for _, cut in rows], bool))
