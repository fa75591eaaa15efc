"""T5: the published network's outputs, counts and buckets; what padding may not do; the largest size compiles."""

import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_t5

from models import hf_weights, t5
from models.text import TEXT_ENCODERS

QUICK = {"xla_backend_optimization_level": 0}  # the time is the compiler's
GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "t5.npz")
COUNTS = {
    "small": 35_332_800,
    "base": 109_628_544,
    "large": 341_231_104,
    "xl": 1_223_527_424,
    "xxl": 4_762_310_656,
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, optimised):
    """(case, dtype) -> (encode jitted, params, output) from a folder of three files; compiled once each."""

    @functools.cache
    def of(name, dtype="float32"):
        size = small_t5.CASES[name][0]
        folder = small_t5.write_folder(tmp_path_factory.mktemp(name), size, small_t5.weights(size), files=3)
        encoder = TEXT_ENCODERS["t5"](path=folder, length=1, dtype=dtype)
        encode, params = optimised(encoder.encode), encoder.load()
        return encode, params, np.asarray(encode(params, *small_t5.inputs(name)), np.float32)

    return of


@pytest.mark.parametrize("name", small_t5.CASES)
def test_the_output_is_that_of_transformers(outputs, name):
    assert GOLDEN[name].std() > 0.5
    np.testing.assert_allclose(outputs(name)[2], GOLDEN[name], rtol=0, atol=1e-5)


def test_bfloat16_costs_about_what_rounding_the_weights_does(outputs):
    encode, params, out = outputs("deep", "bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    assert jax.eval_shape(encode, params, *small_t5.inputs("deep")).dtype == jnp.bfloat16
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    rounded = outputs("deep")[0](rounded, *small_t5.inputs("deep"))
    error, least = (np.sqrt(np.mean((x - GOLDEN["deep"]) ** 2)) for x in (out, rounded))
    assert 0 < error < 3 * least < 0.1 * GOLDEN["deep"].std()


def test_padding_changes_nothing_and_is_zero(outputs):
    encode, params, out = outputs("deep")
    tokens, mask = small_t5.inputs("deep")
    assert not out[~mask].any() and 0 < (~mask).sum()
    junk = np.where(mask, tokens, 7)
    np.testing.assert_array_equal(encode(params, junk, mask), out)
    nothing = np.asarray(encode(params, tokens, np.zeros_like(mask)))
    assert not nothing.any() and not np.isnan(nothing).any()


def test_a_row_depends_on_no_other_and_on_its_order(outputs):
    encode, params, out = outputs("deep")
    tokens, mask = small_t5.inputs("deep")
    other = tokens.copy()
    other[1:] = 3
    np.testing.assert_array_equal(np.asarray(encode(params, other, mask))[0], out[0])
    turned = np.asarray(encode(params, tokens[:, ::-1], np.ones_like(mask)))[0, ::-1]
    assert np.abs(turned - out[0]).max() > 0.1  # the sign of the relative position matters


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes_have_the_published_counts(name):
    leaves = jax.tree.leaves(t5.abstract_params(t5.SIZES[name]))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == COUNTS[name]


def test_the_buckets_are_the_published_ones():
    offsets = [-1000, -128, -64, -16, -9, -8, -7, -1, 0, 1, 7, 8, 16, 64, 128, 1000]
    buckets = [15, 15, 14, 10, 8, 8, 7, 1, 0, 17, 23, 24, 26, 30, 31, 31]
    assert t5.relative_bucket(np.array(offsets)).tolist() == buckets
    distance = np.arange(8, 128)  # away from whole logarithms the published formula has no rounding to speak of
    exact = np.log(distance / 8) / np.log(16) * 8
    clear = np.abs(exact - np.round(exact)) > 1e-9
    assert clear.sum() > 110
    np.testing.assert_array_equal(t5.relative_bucket(-distance)[clear], 8 + exact[clear].astype(int))


def test_a_program_of_many_blocks_is_one_of_a_block():
    def lines(layers):
        size = t5.Size(8, 8, 2, 4, layers, 16)
        shapes, tokens = t5.abstract_params(size), jnp.zeros((1, 4), jnp.int32)
        apply = jax.jit(t5.T5Encoder(size).apply)
        return len(apply.lower({"params": shapes}, tokens, tokens == 0).as_text().splitlines())

    assert lines(24) == lines(2)


def test_rows_without_a_token_have_finite_gradients(outputs):
    encode, params, _ = outputs("narrow")
    tokens, mask = small_t5.inputs("narrow")
    gradient = jax.jit(
        jax.grad(lambda params, mask: (encode.__wrapped__(params, tokens, mask) ** 2).sum()), compiler_options=QUICK
    )
    gradient = jax.tree.leaves(gradient(params, np.zeros_like(mask)))
    assert all(np.isfinite(leaf).all() and not leaf.any() for leaf in gradient)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"feed_forward_proj": "relu"}, "feed_forward_proj is 'relu', not 'gated-gelu'"),
        ({"model_type": "bert"}, "model_type is 'bert', not 't5'"),
        ({"d_ff": None}, "lacks d_ff"),
    ],
)
def test_another_network_is_refused_by_its_config(tmp_path, change, message):
    config = small_t5.config(t5.SIZES["small"]) | change
    config = {key: value for key, value in config.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        TEXT_ENCODERS["t5"](path=str(tmp_path), length=8)
    assert t5.size_of(small_t5.config(t5.SIZES["xxl"])) == t5.SIZES["xxl"]


def test_the_whole_t5s_other_half_is_left_alone_and_either_name_of_the_embedding_does(tmp_path):
    size = small_t5.CASES["narrow"][0]
    found = small_t5.weights(size)
    found["encoder.embed_tokens.weight"] = found.pop("shared.weight")
    more = {"decoder.final_layer_norm.weight": np.ones(24, np.float32), "lm_head.weight": np.ones((2, 2), np.float32)}
    folder = small_t5.write_folder(tmp_path, size, found | more)
    params = TEXT_ENCODERS["t5"](path=folder, length=1, dtype="float32").load()
    np.testing.assert_array_equal(params["tokens"]["embedding"], found["encoder.embed_tokens.weight"])
    with pytest.raises(ValueError, match=r"have a surplus lm_head.weight \(1\)"):
        hf_weights.load(hf_weights.tensors(folder), t5.PUBLISHED, t5.abstract_params(size), others=["decoder."])
