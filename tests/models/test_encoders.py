"""One interface for three kinds of text encoder: what a batch carries, what a network is given, what no text is."""

import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest
import small_t5

from calls import named
from models import huggingface, t5
from models.text import TEXT_ENCODERS, TextEncoder, batch_of, condition, no_text

SPIECE = pathlib.Path(__file__).parent / "golden" / "spiece" / "spiece.model"
PROMPTS = ["a cat", "", "a cat in the snow at night, and more"]
QUICK = {"xla_backend_optimization_level": 0}  # the time is the compiler's


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    size = t5.Size(16, 24, 2, 8, 2, 64)
    folder = small_t5.write_folder(tmp_path_factory.mktemp("t5"), size, small_t5.weights(size))
    shutil.copy(SPIECE, folder)
    return named(TEXT_ENCODERS, f"t5(path={folder!r}, length=12, dtype='float32')", "text.encoder")


def host(tokens, mask):
    """A stand-in for torch: NumPy in, NumPy out."""
    assert type(tokens) is type(mask) is np.ndarray
    return np.where(mask[..., None], tokens[..., None] * np.ones(3, np.float32), 0)


def on_the_host():
    tokenise = TEXT_ENCODERS["bytes"](length=12).tokenise
    return TextEncoder(tokenise, 3, 12, encode=lambda params, *batch: host(*batch), traced=False)


def check(cond, kind, width):
    assert set(cond) == {kind, "text_mask"} and cond["text_mask"].dtype == bool
    assert cond[kind].shape == ((3, 12, width) if kind == "text" else (3, 12))
    assert not np.asarray(cond[kind])[~np.asarray(cond["text_mask"])].any()
    nothing = no_text(cond)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), nothing) == jax.tree.map(lambda x: (x.shape, x.dtype), cond)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(nothing))
    return cond


def test_a_frozen_encoder_reads_tokens_in_the_program_with_its_parameters_as_arguments(frozen):
    part, cut = batch_of(frozen, PROMPTS)
    assert cut.tolist() == [False, False, True] and set(part) == {"tokens", "text_mask"}
    given = jax.jit(lambda params, part: condition(frozen, params, part), compiler_options=QUICK)
    params = frozen.load()
    cond = check(given(params, part), "text", 16)
    halved = given(jax.tree.map(lambda leaf: leaf / 2, params), part)  # the same program: nothing is baked in
    assert given._cache_size() == 1 and np.abs(np.asarray(cond["text"] - halved["text"])).max() > 0.1
    assert np.asarray(cond["text"])[1, 0].any()  # the empty prompt is a token, unlike no text
    made = {"text": np.asarray(cond["text"]), "text_mask": part["text_mask"]}
    assert condition(frozen, None, made)["text"] is made["text"]  # embeddings made before pass as they are


def test_a_learned_encoder_is_the_networks_own():
    encoder = named(TEXT_ENCODERS, "bytes(length=12, width=16, layers=1, heads=2)", "text.encoder")
    part, cut = batch_of(encoder, PROMPTS)
    cond = check(condition(encoder, None, part), "tokens", None)
    params = jax.jit(encoder.module.init, compiler_options=QUICK)(jax.random.key(0), **given(cond))
    encode = jax.jit(encoder.module.apply, compiler_options=QUICK)
    text = encode(params, **given(cond))
    assert text.shape == (3, encoder.length, encoder.width) and cut.tolist() == [False, False, True]
    np.testing.assert_array_equal(encode(params, **given(no_text(cond))), np.zeros_like(text))
    assert encoder.load() is None


def given(cond):
    return {"tokens": cond["tokens"], "mask": cond["text_mask"]}


def test_an_encoder_on_the_host_has_done_its_work_before_the_program():
    encoder = on_the_host()
    part, cut = batch_of(encoder, PROMPTS)
    assert set(part) == {"text", "text_mask"} and cut.tolist() == [False, False, True]
    check(jax.jit(lambda part: condition(encoder, None, part))(part), "text", 3)


@pytest.mark.parametrize(
    "text, message",
    [
        ("bytes(length=0)", "length=0 must be 1 or more"),
        ("bytes(length=8, width=30, heads=4)", "heads divide the width"),
        ("bytes(length=8, dtype='float16')", "dtype='float16' must be float32 or bfloat16"),
        ("bytes()", "missing a required argument: 'length'"),
        ("t5(path='none', length=8)", "config.json is missing; give a Hugging Face folder"),
        ("hf(path='none', length=8)", "config.json is missing"),
        ("clip(path='none')", "choose from bytes, hf, t5"),
    ],
)
def test_mistakes_are_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        named(TEXT_ENCODERS, text, "text.encoder")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config, width",
    [
        ({"hidden_size": 768, "max_position_embeddings": 512}, 768),
        ({"d_model": 512}, 512),
        ({"text_config": {"hidden_size": 512, "max_position_embeddings": 77}, "projection_dim": 640}, 512),
    ],
)
def test_the_width_of_any_encoder_is_in_its_config(config, width):
    assert huggingface.width_of(config, 77) == width


def test_what_other_encoders_lack_is_said(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="gives none of d_model, hidden_size"):
        huggingface.width_of({"model_type": "x"}, 8)
    with pytest.raises(ValueError, match="length=78 is more than the 77 positions of this encoder"):
        huggingface.width_of({"hidden_size": 8, "max_position_embeddings": 77}, 78)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8}))
    monkeypatch.setitem(sys.modules, "torch", None)
    encoder = TEXT_ENCODERS["hf"](path=str(tmp_path), length=8)  # training on embeddings needs neither
    assert (encoder.width, encoder.length) == (8, 8)
    with pytest.raises(ValueError, match="text encoder hf needs torch: pip install torch transformers"):
        encoder.tokenise(["a"])
