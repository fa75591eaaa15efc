"""Prompts as tokens: transformers' own for T5, bytes that read back, and every odd prompt."""

import json
import pathlib
import shutil
import sys

import numpy as np
import pytest

from models.tokenizers import byte_tokenizer, readable, sentencepiece_tokenizer

SPIECE = pathlib.Path(__file__).parent / "golden" / "spiece"
GOLDEN = json.loads((SPIECE / "tokens.json").read_text())
PROMPTS = ["", "a", "a seven", "Größe 猫 \U0001f408‍⬛", "a sea " * 50, "é" * 20, "\ud83d lone", "</s> <pad>\n\t "]


def text(tokens, mask):
    """What byte tokens say, by hand."""
    assert tokens[mask][-1] == 1 and not tokens[~mask].any()
    return bytes(token - 2 for token in tokens[mask][:-1]).decode()


@pytest.mark.parametrize("length", [1, 2, 16, 200])
def test_bytes_read_back(length):
    found = byte_tokenizer(length)(PROMPTS)
    assert found.tokens.shape == found.mask.shape == (len(PROMPTS), length)
    assert (found.tokens.dtype, found.mask.dtype, found.cut.dtype) == (np.int32, bool, bool)
    for prompt, tokens, mask, cut in zip(map(readable, PROMPTS), *found):
        kept = text(tokens, mask)
        assert mask.sum() <= length and (np.diff(mask.astype(int)) <= 0).all()  # tokens first
        assert prompt.startswith(kept) and cut == (kept != prompt)
        assert not cut or len(prompt[: len(kept) + 1].encode()) + 1 > length  # no room for one more character


def test_a_pair_of_halves_and_an_exact_fit():
    assert readable("\ud83d lone") == "? lone" and readable("\U0001f408") == "\U0001f408"
    found = byte_tokenizer(4)(["abc", "abcd", "é"])
    assert found.cut.tolist() == [False, True, False] and found.mask.sum(1).tolist() == [4, 4, 3]


def test_pieces_are_those_of_transformers():
    found = sentencepiece_tokenizer(str(SPIECE), GOLDEN["length"])(GOLDEN["prompts"])
    assert set(GOLDEN["cut"]) == {True, False}
    np.testing.assert_array_equal(found.tokens, GOLDEN["tokens"])
    np.testing.assert_array_equal(found.mask, np.array(GOLDEN["mask"], bool))
    np.testing.assert_array_equal(found.cut, GOLDEN["cut"])


def test_any_prompt_has_pieces():
    found = sentencepiece_tokenizer(str(SPIECE), 8)(PROMPTS)
    assert found.mask[:, 0].all() and found.mask.sum(1)[0] == 1 and found.cut[4]
    assert (found.tokens[np.arange(len(PROMPTS)), found.mask.sum(1) - 1] == 1).all()
    assert (found.tokens[-1] == 1).sum() == 1  # "</s>" in a prompt is text, not an end
    assert sentencepiece_tokenizer(str(SPIECE), 8)([]).tokens.shape == (0, 8)


def test_what_lacks_is_said_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="spiece.model is missing: fetch it with the weights"):
        sentencepiece_tokenizer(str(tmp_path), 8)
    (tmp_path / "spiece.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"^\S+spiece.model is no SentencePiece model: [^\n]*$"):
        sentencepiece_tokenizer(str(tmp_path), 8)
    shutil.copy(SPIECE / "spiece.model", tmp_path)
    assert sentencepiece_tokenizer(str(tmp_path), 8)(["a"]).mask.any()
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ValueError, match="pip install -r requirements-text.txt"):
        sentencepiece_tokenizer(str(tmp_path), 8)
