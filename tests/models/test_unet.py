import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import MODELS, UNet

TINY = dict(size=8, out_channels=3, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), groups=4)
QUICK = {"xla_backend_optimization_level": 0}  # the time is the compiler's
DDPM_TINY = dict(num_labels=3)
ADM_TINY = dict(scale_shift=True, resample="block", convention="adm", head_channels=4, num_labels=3)

DDPM = dict(out_channels=3, channels=128, blocks=2, attention=(16,))
ADM = dict(out_channels=6, channels=256, blocks=2, attention=(32, 16, 8))
ADM |= dict(scale_shift=True, resample="block", convention="adm", num_labels=1000)
DEEP = (1, 1, 2, 2, 4, 4)

# Ho et al. 2020; Dhariwal and Nichol 2021, tables 11 to 14, with learned variance.
COUNTS = {
    "cifar10": (35_746_307, DDPM | dict(size=32, multipliers=(1, 2, 2, 2))),
    "celebahq256": (113_673_219, DDPM | dict(size=256, multipliers=DEEP)),
    "lsun256": (
        552_814_086,
        ADM | dict(size=256, multipliers=DEEP, head_channels=64, num_labels=0),
    ),
    "imagenet64": (
        295_904_454,
        ADM | dict(size=64, channels=192, multipliers=(1, 2, 3, 4), blocks=3, head_channels=64),
    ),
    "imagenet128": (421_529_606, ADM | dict(size=128, multipliers=(1, 1, 2, 3, 4), num_heads=4)),
    "imagenet256": (553_838_086, ADM | dict(size=256, multipliers=DEEP, head_channels=64)),
    "imagenet512": (558_997_638, ADM | dict(size=512, multipliers=(0.5, *DEEP), head_channels=64)),
    "up_64_256": (
        311_795_910,
        ADM | dict(size=256, channels=192, multipliers=DEEP, num_heads=4),
    ),
    "up_128_512": (
        308_835_270,
        ADM | dict(size=512, channels=192, multipliers=DEEP, num_heads=4, attention=(32, 16)),
    ),
}

# Imagen's trunk, without text: millions by width.
TRUNKS = {128: 131, 192: 295, 256: 525, 320: 820, 384: 1180, 448: 1606, 512: 2098}


def batch(size=(8, 8), b=2, channels=3):
    x = jax.random.normal(jax.random.key(1), (b, *size, channels))
    return x, jnp.linspace(3.0, 900.0, b), {"label": jnp.arange(b)}


@functools.cache
def jitted(**fields):
    """One compilation a network and mode: (params, args, dropout key or None) -> output."""

    def apply(params, args, key=None):
        train = {} if key is None else dict(train=True, rngs={"dropout": key})
        return UNet(**TINY | fields).apply({"params": params}, *args, **train)

    return jax.jit(apply, compiler_options=QUICK)


@functools.cache
def value_and_grad(**fields):
    """(params, args) -> the output's sum of squares, and its gradient in params."""

    def loss(params, args):
        return jnp.sum(UNet(**TINY | fields).apply({"params": params}, *args) ** 2)

    return jax.jit(jax.value_and_grad(loss), compiler_options=QUICK)


def count(low_res=False, **fields):
    net = UNet(**fields)
    side = fields["size"]
    args = jax.eval_shape(lambda: batch((side, side), b=1))
    if low_res:
        args[2]["low_res"] = args[0]
    params = jax.eval_shape(net.init, jax.random.key(0), *args)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_number_as_published(name):
    number, fields = COUNTS[name]
    assert count(low_res=name.startswith("up_"), **fields) == number


@pytest.mark.parametrize("width", TRUNKS)
def test_imagen_trunks_number_as_published(width):
    fields = COUNTS["imagenet64"][1] | dict(channels=width, num_labels=0, out_channels=3)
    assert round(count(**fields) / 1e6) == TRUNKS[width]


@pytest.mark.parametrize("fields", [DDPM_TINY, ADM_TINY], ids=["ddpm", "adm"])
def test_a_new_network_has_float32_parameters_and_answers_exact_zero(fields):
    fields = fields | dict(multipliers=(2,), attention=(), out_channels=6, dtype="bfloat16")
    net, args = UNet(**TINY | fields), batch()

    @functools.partial(jax.jit, compiler_options=QUICK)
    def start(key):
        variables = net.init(key, *args)
        return variables, net.apply(variables, *args)

    variables, out = start(jax.random.key(0, impl="rbg"))  # threefry compiles slowly
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert (out.shape, out.dtype) == ((2, 8, 8, 6), jnp.float32)
    np.testing.assert_array_equal(out, 0)


@pytest.mark.parametrize("fields", [DDPM_TINY, ADM_TINY], ids=["ddpm", "adm"])
def test_the_gradient_reaches_every_parameter(fields, draw):
    args = batch(b=3)
    params = draw(UNet(**TINY | fields), *args)
    _, grad = value_and_grad(**fields)(params, args)
    paths = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(grad)}
    silent = {path for path, leaf in paths.items() if np.abs(leaf).max() < 1e-2}
    # A key's bias moves all logits of a query alike, and softmax does not see it.
    assert silent <= {path for path in paths if "['key']['bias']" in path}


def test_remat_keeps_parameters_outputs_and_gradients(draw):
    args = batch(b=3)
    nets = [UNet(**TINY | DDPM_TINY | dict(remat=remat)) for remat in ("none", "blocks")]
    params, remat_params = (draw(net, *args) for net in nets)
    assert jax.tree.structure(params) == jax.tree.structure(remat_params)

    value, grad = value_and_grad(**DDPM_TINY)(params, args)
    remat_value, remat_grad = value_and_grad(**DDPM_TINY, remat="blocks")(params, args)
    np.testing.assert_allclose(value, remat_value, rtol=1e-4)
    for leaf, remat_leaf in zip(jax.tree.leaves(grad), jax.tree.leaves(remat_grad)):
        np.testing.assert_allclose(leaf, remat_leaf, rtol=1e-3, atol=1e-3 * np.abs(leaf).max() + 1e-2)


def test_remat_keeps_less_for_the_backward_pass():
    def kept(remat):
        net, args = UNet(**TINY, remat=remat), batch()
        params = jax.eval_shape(net.init, jax.random.key(0), *args)["params"]

        def backward(p):
            return jax.vjp(lambda p: net.apply({"params": p}, *args), p)[1]

        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(backward, params)))

    assert kept("blocks") < 0.7 * kept("none")
    assert kept("blocks") < kept("dots") < kept("none")


def test_dropout_is_off_in_evaluation_and_differs_by_key_in_training(draw):
    args = batch()
    params = draw(UNet(**TINY), *args)
    apply = jitted(dropout=0.5)
    first, again, other = (apply(params, args, jax.random.key(k)) for k in (1, 1, 2))
    evaluated, without = apply(params, args), jitted()(params, args)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(evaluated, without)
    assert np.abs(first - other).max() > 0.1
    assert np.abs(first - evaluated).max() > 0.1


@pytest.mark.parametrize("fields", [DDPM_TINY, ADM_TINY], ids=["ddpm", "adm"])
def test_bfloat16_is_close_to_float32_on_the_same_parameters(fields, draw):
    args = batch()
    params = draw(UNet(**TINY | fields), *args)
    exact = jitted(**fields)(params, args)
    rough = jitted(**fields, dtype="bfloat16")(params, args)
    assert rough.dtype == jnp.float32
    error = np.sqrt(np.mean((exact - rough) ** 2) / np.mean(exact**2))
    assert 1e-4 < error < 0.05


@pytest.mark.parametrize("fields", [DDPM_TINY, ADM_TINY], ids=["ddpm", "adm"])
def test_parameters_of_crops_run_on_whole_and_oblong_images(fields, draw):
    net = UNet(**TINY | fields)
    params, whole = draw(net, *batch()), batch((12, 20))
    assert jitted(**fields)(params, whole).shape == (2, 12, 20, 3)
    assert jax.tree.structure(params) == jax.tree.structure(draw(net, *whole))


def test_blocks_are_named_after_the_nominal_size(draw):
    names = set(draw(UNet(**TINY | dict(size=32, attention=(16,))), *batch()))
    assert {"down_32_0", "down_32_resample", "down_16_0_attention", "mid_attention"} <= names
    assert {"up_16_0", "up_16_1_attention", "up_16_resample", "up_32_1"} <= names
    assert not any("32" in name and "attention" in name for name in names)


@pytest.mark.parametrize("convention", ["ddpm", "adm"])
def test_a_thousand_levels_have_a_thousand_embeddings_under_bfloat16(convention, draw):
    net = UNet(**TINY | dict(channels=32, convention=convention, dtype="bfloat16"))
    x, _, cond = batch((2, 2), b=1000)
    levels = jnp.arange(1000.0)
    params = draw(net, x, levels, cond)

    @jax.jit
    def embed(levels):
        state = dict(capture_intermediates=lambda module, _: module.name == "time_2")
        _, state = net.apply({"params": params}, x, levels, cond, **state)
        return state["intermediates"]["time_2"]["__call__"][0]

    emb = embed(levels)
    assert emb.dtype == jnp.float32
    seen_by_blocks = jax.nn.silu(emb).astype(jnp.bfloat16).astype(jnp.float32)
    assert len(np.unique(seen_by_blocks, axis=0)) == 1000


def test_each_image_answers_to_its_own_level_and_label(draw):
    x, t, cond = batch()
    params = draw(UNet(**TINY | ADM_TINY), x, t, cond)
    apply = jitted(**ADM_TINY)
    out = apply(params, (x, t, cond))
    for t2, label in ((t.at[1].add(50.0), [0, 1]), (t, [0, 2])):
        changed = apply(params, (x, t2, {"label": jnp.array(label)}))
        np.testing.assert_allclose(out[0], changed[0], atol=1e-4)
        assert np.abs(out[1] - changed[1]).max() > 1e-2


def test_a_label_past_the_last_row_is_nan_and_minus_one_is_the_last_row(draw):
    x, t, cond = batch()
    params = draw(UNet(**TINY | ADM_TINY), x, t, cond)
    past, minus, last = (jitted(**ADM_TINY)(params, (x, t, {"label": jnp.array([0, label])})) for label in (3, -1, 2))
    assert np.isnan(past[1]).all()
    assert np.isfinite(past[0]).all()
    np.testing.assert_array_equal(minus, last)


def test_the_low_resolution_image_joins_the_input(draw):
    x, t, _ = batch()
    low_res = jax.random.normal(jax.random.key(2), x.shape)
    params = draw(UNet(**TINY), x, t, {"low_res": low_res})
    assert params["conv_in"]["kernel"].shape == (3, 3, 6, 8)
    joined = jitted()(params, (jnp.concatenate([x, low_res], axis=-1), t, {}))
    np.testing.assert_array_equal(jitted()(params, (x, t, {"low_res": low_res})), joined)


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(size=30, multipliers=(1, 1, 1)), "size is 30.*multiple of 4"),
        (dict(multipliers=()), "multipliers is empty"),
        (dict(attention=(16,)), r"attention is at \[16\].*\[8, 4\]"),
        (dict(groups=3), "groups is 3.* 8 channels of level 8"),
        (dict(multipliers=(1, 0)), "groups is 4.* 0 channels of level 4"),
        (dict(channels=9, groups=1), "channels is 9: give an even"),
        (dict(num_heads=3), "num_heads is 3.* 16 channels.* at 4"),
        (dict(head_channels=5), "head_channels is 5.* 16 channels.* at 4"),
        (dict(head_channels=8, num_heads=2), "num_heads is 2 and head_channels is 8"),
        (dict(num_heads=0), "num_heads is 0: give at least 1"),
        (dict(dropout=1.0), r"dropout is 1.0: give a rate in \[0, 1\)"),
        (dict(resample="pool"), r"resample is 'pool': choose from \('conv', 'block'\)"),
        (dict(convention="edm"), r"convention is 'edm': choose from \('ddpm', 'adm'\)"),
        (dict(dtype="float16"), r"dtype is 'float16': choose from \('float32', 'bfloat16'\)"),
    ],
)
def test_contradicting_fields_are_refused_when_the_network_is_built(fields, words):
    with pytest.raises(ValueError, match=words) as refusal:
        MODELS["unet"](**TINY | fields)
    assert "\n" not in str(refusal.value)


def test_images_that_the_levels_cannot_halve_are_refused():
    with pytest.raises(ValueError, match="8 x 7.*multiples of 2"):
        jax.eval_shape(UNet(**TINY).init, jax.random.key(0), *batch((8, 7)))


def test_a_missing_label_is_refused():
    x, t, _ = batch()
    with pytest.raises(ValueError, match="num_labels is 3, but cond has no 'label'"):
        jax.eval_shape(UNet(**TINY, num_labels=3).init, jax.random.key(0), x, t, {})
