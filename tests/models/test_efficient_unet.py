"""The Efficient U-Net: its size, its order, and what it refuses."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import MODELS, EfficientUNet

TINY = dict(size=16, out_channels=3, channels=8, multipliers=(1, 2), level_blocks=(1, 2), groups=4, num_heads=2)
IMAGEN = dict(out_channels=3, channels=128, multipliers=(1, 2, 4, 8), level_blocks=(2, 4, 8, 8))
TO_256 = EfficientUNet(size=256, attention=(16,), **IMAGEN)
TO_1024 = EfficientUNet(size=1024, cross_attention=(64,), **IMAGEN)
QUICK = {"xla_backend_optimization_level": 0}  # the time is the compiler's


def batch(size=(16, 16), b=2):
    x = jax.random.normal(jax.random.key(1), (b, *size, 3))
    return x, jnp.linspace(3.0, 900.0, b), {"low_res": x[:, ::-1], "aug_level": jnp.linspace(0.1, 0.9, b)}


def sizes(network, **more):
    """{name: number of parameters} with a low-resolution image, and `more` of the condition."""
    x, t, cond = jax.eval_shape(lambda: batch((64, 64), b=1))
    params = jax.eval_shape(network.init, jax.random.key(0), x, t, cond | more)["params"]
    leaves = jax.tree.leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.size for path, leaf in leaves}


@pytest.mark.parametrize(
    "network, trunk, text", [(TO_256, 592_980_867, 40_142_848), (TO_1024, 576_185_219, 48_541_696)]
)
def test_imagens_stages_have_the_sizes_that_the_documentation_states(network, trunk, text):
    """One concatenation a residual block makes about 594M of 64 -> 256, for which the paper prints 600M."""
    t5_xxl = {
        "text": jax.ShapeDtypeStruct((1, 8, 4096), jnp.float32),
        "text_mask": jax.ShapeDtypeStruct((1, 8), bool),
    }
    assert sum(sizes(network).values()) == trunk
    assert sum(sizes(network, **t5_xxl).values()) == trunk + text


def test_most_parameters_stand_at_the_lowest_resolution_and_self_attention_in_the_256_stage_alone():
    found = sizes(TO_256)
    lowest = sum(size for name, size in found.items() if "_16_" in name)
    assert lowest > 0.75 * sum(found.values())
    assert "down_16_attention/key/kernel" in found and "up_16_attention/key/kernel" in found
    assert not [name for name in sizes(TO_1024) if "attention" in name]


def test_convolutions_halve_first_and_double_last_and_every_shortcut_is_projected(run):
    network = EfficientUNet(**TINY, attention=(4,))
    x, t, cond = batch()
    state = {}

    def outputs(x, t, cond):
        _, seen = network.apply(
            {"params": state["params"]}, x, t, cond, capture_intermediates=lambda module, _: "_" in (module.name or "")
        )
        return seen["intermediates"]

    state["params"], out = run(network, x, t, cond)
    seen = jax.eval_shape(outputs, x, t, cond)
    found = {name: part["__call__"][0].shape[1:] for name, part in seen.items()}
    assert found["conv_in"] == (16, 16, 8) and found["down_8_resample"] == (8, 8, 8)
    assert found["down_4_resample"] == (4, 4, 16) and found["down_4_1"] == (4, 4, 16)
    assert found["up_4_resample"] == (8, 8, 8) and found["up_8_0"] == (8, 8, 8)
    assert found["up_8_resample"] == (16, 16, 8) and out.shape == (2, 16, 16, 3)
    names = [name for name in state["params"] if name.removeprefix("down_").removeprefix("up_")[-1:].isdigit()]
    blocks = [name for name in names if "shortcut" in state["params"][name]]
    assert sorted(blocks) == ["down_4_0", "down_4_1", "down_8_0", "up_4_0", "up_4_1", "up_8_0"]


def test_skips_are_scaled_by_the_root_of_a_half(draw):
    network, args = EfficientUNet(**TINY | dict(multipliers=(1,), level_blocks=(1,))), batch()
    seen = {}

    def keep(next_call, given, kwargs, context):
        out = next_call(*given, **kwargs)
        if context.module.name in ("down_8_0", "up_8_0"):
            seen[context.module.name] = (given[0], out)
        return out

    @functools.partial(jax.jit, compiler_options=QUICK)
    def skip_and_what_is_read(params):
        with nn.intercept_methods(keep):
            network.apply({"params": params}, *args)
        return seen["down_8_0"][1], seen["up_8_0"][0]

    skip, read = skip_and_what_is_read(draw(network, *args))
    np.testing.assert_allclose(read[..., 8:], skip / np.sqrt(2), rtol=1e-6)


def test_the_levels_embedding_is_not_the_times_and_each_image_answers_to_its_own(run):
    network, (x, t, cond) = EfficientUNet(**TINY), batch()
    params, out = run(network, x, t, cond)
    assert {"time_1", "time_2", "aug_1", "aug_2"} <= params.keys()
    apply = jax.jit(network.apply, compiler_options=QUICK)
    for changed in (
        cond | {"aug_level": cond["aug_level"].at[1].set(0.2)},
        cond | {"low_res": cond["low_res"].at[1].set(0)},
    ):
        other = apply({"params": params}, x, t, changed)
        np.testing.assert_allclose(out[0], other[0], atol=1e-4)
        assert np.abs(out[1] - other[1]).max() > 1e-2


def test_a_network_of_crops_runs_on_whole_images_and_starts_at_zero():
    network = EfficientUNet(**TINY | dict(multipliers=(1,), level_blocks=(1,), dtype="bfloat16", remat="blocks"))

    @functools.partial(jax.jit, compiler_options=QUICK)
    def start(key):
        params = network.init(key, *batch((8, 8)))
        return network.apply(params, *batch((16, 12)))

    out = start(jax.random.key(0, impl="rbg"))
    assert out.shape == (2, 16, 12, 3) and out.dtype == jnp.float32
    np.testing.assert_array_equal(out, 0)


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(size=18), "size is 18, which 2 levels halve: give a multiple of 4"),
        (dict(level_blocks=(1,)), "give both one number a level"),
        (dict(attention=(16,)), r"attention is at \[16\], which is no level: choose from \[8, 4\]"),
        (dict(attention=(4,), cross_attention=(4,)), "both at"),
        (dict(groups=3), "groups is 3, which does not divide the 8 channels of level 8"),
        (dict(num_heads=3, attention=(4,)), "num_heads is 3, which does not divide the 32 channels at 4"),
        (dict(dropout=1.0), "dropout is 1.0"),
        (dict(convention="edm"), "convention is 'edm': choose from"),
        (dict(num_heads=0), "num_heads is 0: give at least 1"),
    ],
)
def test_contradicting_fields_are_refused_when_the_network_is_built(fields, words):
    with pytest.raises(ValueError, match=words) as refusal:
        MODELS["efficient_unet"](**TINY | fields)
    assert "\n" not in str(refusal.value)


def test_images_that_the_levels_cannot_halve_are_refused():
    with pytest.raises(ValueError, match="16 x 10.*multiples of 4"):
        jax.eval_shape(EfficientUNet(**TINY).init, jax.random.key(0), *batch((16, 10)))
