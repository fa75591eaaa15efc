"""EDM's, EDM2's and DiT's networks on random weights: what theirs answered (make_golden_recipes.py), ours answers."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recipe_states
import unet_states

from models import MODELS, edm2_unet
from models.dit import positions
from models.published import dit, edm, edm2

QUICK = {"xla_backend_optimization_level": 0}  # the time is the compiler's
HEADS = recipe_states.EDM2["channels_per_head"]


@functools.cache
def golden():
    with np.load(pathlib.Path(__file__).parent / "golden" / "recipes.npz") as stored:
        return {name: stored[name] for name in stored.files}


@functools.cache
def state(name):
    return unet_states.weights({key: tuple(shape) for key, shape in json.loads(str(golden()["shapes"]))[name].items()})


@functools.cache
def imported(name):
    if name == "dit":
        side, width = recipe_states.DIT["input_size"] // 2, recipe_states.DIT["hidden_size"]
        return dit.to_dit(state(name) | {"pos_embed": positions(side, side, width)[None]}, heads=4)
    return edm2.to_unet(state(name), HEADS) if name == "edm2" else edm.to_unet(state(name))


@functools.cache
def apply(net):
    return jax.jit(lambda params, *given: net.apply({"params": params}, *given), compiler_options=QUICK)


def answer(name, **told):
    net, params = imported(name)
    x = unet_states.images(8, 4 if name == "dit" else 3)
    noise_input = unet_states.TIMES if name == "dit" else np.log(unet_states.SIGMAS) / 4
    return apply(net)(params, x, noise_input, {"label": unet_states.LABELS} | told)


@pytest.mark.parametrize("name", ["edm2", "dit"])
def test_a_network_answers_as_the_original(name):
    np.testing.assert_allclose(answer(name), golden()[name], atol=1e-4)


def test_song_unet_answers_as_the_original_and_zeros_are_no_augmentation():
    nothing = answer("song", augment=np.zeros((2, 9), np.float32))
    np.testing.assert_allclose(nothing, golden()["song"], atol=1e-4)
    np.testing.assert_allclose(answer("song", augment=recipe_states.AUGMENT), golden()["song_augmented"], atol=1e-4)
    assert np.abs(golden()["song_augmented"] - golden()["song"]).max() > 0.01


SMALL = {
    "song_unet": dict(channels=16, multipliers=(1, 2), blocks=1, attention=(4,)),
    "edm2_unet": dict(channels=16, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8),
    "dit": dict(channels=16, blocks=2, num_heads=2, patch=2),
    "u_vit": dict(channels=16, multipliers=(1, 2), blocks=1, middle=2, num_heads=2, groups=8),
}
# Theirs, by make_golden_recipes.py --count; the positions of DiT are not among them.
COUNTS = {"S": 32_865_056, "B": 130_315_808, "L": 457_840_672, "XL": 674_834_720}


def small(name, **fields):
    return MODELS[name](**dict(size=8, out_channels=3, num_labels=3) | SMALL[name] | fields)


def batch(side=8, wide=8, channels=3):
    x = jax.random.normal(jax.random.key(1), (2, side, wide, channels))
    return x, jnp.array([-0.5, 0.3]), {"label": jnp.arange(2)}


@pytest.mark.parametrize("size", COUNTS)
def test_dits_number_as_published(size):
    width, depth, heads = recipe_states.DITS[size]
    net = MODELS["dit"](32, 8, channels=width, blocks=depth, num_heads=heads, patch=2, num_labels=1001)
    args = jax.eval_shape(lambda: batch(32, 32, channels=4))
    params = jax.eval_shape(net.init, jax.random.key(0), *args)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == COUNTS[size]


@pytest.mark.parametrize("name", SMALL)
def test_parameters_are_float32_and_so_is_the_output_of_oblong_images(name):
    net = small(name, dtype="bfloat16")
    params = jax.eval_shape(net.init, jax.random.key(0), *batch())
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    out = jax.eval_shape(net.apply, params, *batch(12, 20))
    assert (out.shape, out.dtype) == ((2, 12, 20, 3), jnp.float32)
    assert jax.eval_shape(net.init, jax.random.key(0), *batch(12, 20)) == params


def test_a_new_dit_and_a_new_u_vit_answer_zero():
    for name in ("dit", "u_vit"):
        net = small(name)

        @functools.partial(jax.jit, compiler_options=QUICK)
        def start(key, net=net):
            return net.apply(net.init(key, *batch()), *batch())

        np.testing.assert_array_equal(start(jax.random.key(0, impl="rbg")), 0)


@pytest.mark.parametrize("name", ["song_unet", "u_vit"])
def test_every_pixel_answers_to_every_other_and_the_gradient_reaches_every_parameter(name, draw):
    net, (x, noise_input, cond) = small(name), batch()
    params = draw(net, x, noise_input, cond)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(params, x):
        of_params = jax.grad(lambda p: jnp.sum(net.apply({"params": p}, x, noise_input, cond) ** 2))(params)
        of_pixels = jax.grad(lambda x: net.apply({"params": params}, x, noise_input, cond)[0, 0, 0, 0])(x)
        return of_params, of_pixels

    of_params, of_pixels = both(params, x)
    assert np.all(np.abs(of_pixels[0]).max(-1) > 0) and np.all(of_pixels[1] == 0)
    paths = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(of_params)}
    silent = {path for path, leaf in paths.items() if np.abs(leaf).max() < 1e-4}
    # A key's bias moves all logits of a query alike, and softmax does not see it.
    assert silent <= {path for path in paths if "['key']['bias']" in path}


def test_layers_and_sums_of_edm2_keep_magnitudes():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(64, 8, 8, width)).astype(np.float32) for width in (32, 96))
    layer = edm2_unet.Linear(64, 3)
    params = layer.init(jax.random.key(0), a)
    inner = layer.apply(params, a)[:, 1:-1, 1:-1]
    for found in (
        inner,
        edm2_unet.mp_silu(a),
        edm2_unet.mp_sum(a, b[..., :32], 0.3),
        edm2_unet.mp_concatenate(a, b),
        edm2_unet.unit(5 * a, -1),
    ):
        assert abs(np.sqrt(np.mean(np.square(found))) - 1) < 0.03
    joined = edm2_unet.mp_concatenate(a, b)
    shares = [np.sum(np.square(joined[..., part])) for part in (slice(0, 32), slice(32, 128))]
    assert abs(shares[0] / shares[1] - 1) < 0.03  # each counts for half, however many channels it has


def test_forced_normalisation_leaves_what_the_network_says():
    net, params = imported("edm2")
    far = jax.tree.map_with_path(lambda path, x: 300 * x if path[-1].key == "kernel" else x, params)
    projected = net.project(far)
    for (path, leaf), before in zip(jax.tree.leaves_with_path(projected), jax.tree.leaves(far), strict=True):
        if path[-1].key == "kernel":
            was, rms = (np.sqrt(np.mean(np.square(kernel), tuple(range(leaf.ndim - 1)))) for kernel in (before, leaf))
            np.testing.assert_allclose(rms, was / (was + 1e-4), rtol=1e-5)
        else:
            np.testing.assert_array_equal(leaf, before)
    x, noise_input, told = unet_states.images(8), np.log(unet_states.SIGMAS) / 4, {"label": unet_states.LABELS}
    # Weights are normalised where they are used too, to within 1e-4 in each of some 20 layers.
    before, after = (apply(net)(params, x, noise_input, told) for params in (far, projected))
    np.testing.assert_allclose(before, after, atol=20e-4 * np.abs(before).max())


@pytest.mark.parametrize(
    "name, fields, words",
    [
        ("dit", dict(patch=3), "size is 8, which patches of 3 do not divide"),
        ("dit", dict(num_heads=3), "channels is 16: give a multiple of 4 and of num_heads=3"),
        ("song_unet", dict(multipliers=(1, 2, 2, 2, 2)), "size is 8, which 5 multipliers halve 4 times"),
        ("song_unet", dict(channels=18), "give 18 channels: give multiples of 4"),
        ("song_unet", dict(attention=(16,)), r"attention is at \[16\], which is no level"),
        ("edm2_unet", dict(head_channels=5), "head_channels is 5, which does not divide the 32 at 4"),
        ("edm2_unet", dict(dropout=1.0), r"dropout is 1.0: give a rate in \[0, 1\)"),
        ("u_vit", dict(num_heads=3), "the last level has 32 channels: give a multiple of 4 and of num_heads=3"),
        ("u_vit", dict(patch=3), "size is 8, which patches of 3 do not divide"),
    ],
)
def test_contradicting_fields_are_refused_when_the_network_is_built(name, fields, words):
    with pytest.raises(ValueError, match=words) as refusal:
        small(name, **fields)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", SMALL)
def test_what_a_network_is_not_made_for_is_refused(name):
    x, noise_input, cond = batch()
    start = functools.partial(jax.eval_shape, small(name).init, jax.random.key(0), x, noise_input)
    with pytest.raises(ValueError, match=f"model.name={name} takes .*but the task also tells .*'sound'"):
        start(cond | {"sound": x})
    with pytest.raises(ValueError, match="num_labels is 3, but cond has no 'label'"):
        start({})
