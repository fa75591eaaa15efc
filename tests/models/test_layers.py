import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.layers import CONVENTIONS, Attention, ResBlock, Style, double, halve, same


def style(convention="ddpm", dtype=jnp.float32):
    return Style(CONVENTIONS[convention], groups=4, dtype=jnp.dtype(dtype))


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def float64(params):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), params)


def ref_swish(x):
    return x / (1 + np.exp(-x))


def ref_dense(p, x):
    return x @ p["kernel"] + p["bias"]


def ref_norm(p, x, eps, groups=4):
    out = np.empty_like(x)
    size = x.shape[-1] // groups
    for image in range(len(x)):
        for first in range(0, x.shape[-1], size):
            part = x[image, ..., first : first + size]
            out[image, ..., first : first + size] = (part - part.mean()) / np.sqrt(part.var() + eps)
    return out * p["scale"] + p["bias"]


def ref_conv(p, x, stride=1, before=1):
    """Nine shifted products over an image in a frame of zeros."""
    b, h, w, _ = x.shape
    frame = np.pad(x, ((0, 0), (before, 2), (before, 2), (0, 0)))
    taps = [frame[:, i : i + h : stride, j : j + w : stride] @ p["kernel"][i, j] for i in range(3) for j in range(3)]
    return sum(taps) + p["bias"]


def ref_resize(name, x):
    if name == "halve":
        return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    return np.kron(x, np.ones((1, 2, 2, 1))) if name == "double" else x


def ref_resblock(p, x, emb, scale_shift, resize, eps):
    h = ref_conv(p["conv_1"], ref_resize(resize, ref_swish(ref_norm(p["norm_1"], x, eps))))
    emb = ref_dense(p["embedding"], emb)[:, None, None]
    if scale_shift:
        scale, shift = emb[..., : h.shape[-1]], emb[..., h.shape[-1] :]
        h = ref_norm(p["norm_2"], h, eps) * (1 + scale) + shift
    else:
        h = ref_norm(p["norm_2"], h + emb, eps)
    h = ref_conv(p["conv_2"], ref_swish(h))
    x = ref_resize(resize, x)
    return h + (ref_dense(p["shortcut"], x) if "shortcut" in p else x)


def ref_attention(p, x, heads, eps):
    b, h, w, c = x.shape
    y = ref_norm(p["norm"], x, eps).reshape(b, h * w, c)
    q, k, v = (ref_dense(p[name], y) for name in ("query", "key", "value"))
    out = np.empty_like(y)
    for image in range(b):
        for part in np.split(np.arange(c), heads):
            logits = q[image][:, part] @ k[image][:, part].T / np.sqrt(len(part))
            weights = np.exp(logits)
            weights /= weights.sum(axis=1, keepdims=True)
            out[image][:, part] = weights @ v[image][:, part]
    return x + ref_dense(p["out"], out).reshape(x.shape)


@pytest.mark.parametrize("convention, scale_shift", [("ddpm", False), ("adm", True)])
@pytest.mark.parametrize("resample, width", [(same, 8), (same, 12), (halve, 8), (double, 12)])
def test_a_residual_block_equals_its_formula_in_numpy(run, convention, scale_shift, resample, width):
    x, emb = normal(1, 2, 4, 6, 8), normal(2, 2, 5)
    block = ResBlock(style(convention), width, scale_shift, 0.0, resample)
    params, out = run(block, x, emb)
    eps = {"ddpm": 1e-6, "adm": 1e-5}[convention]
    args = float64((x, emb))
    ref = ref_resblock(float64(params), *args, scale_shift, resample.__name__, eps)
    np.testing.assert_allclose(out, ref, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_equals_its_formula_in_numpy(run, heads):
    x = normal(1, 2, 3, 5, 8)
    params, out = run(Attention(style(), heads), x)
    ref = ref_attention(float64(params), float64(x), heads, 1e-6)
    np.testing.assert_allclose(out, ref, rtol=1e-4, atol=1e-5)


def test_attention_commutes_with_a_permutation_of_the_pixels(run):
    x, order = normal(1, 2, 3, 5, 8), np.random.default_rng(0).permutation(15)
    attention = Attention(style(), heads=2)
    params, out = run(attention, x)

    def permute(image):
        return image.reshape(2, 15, 8)[:, order].reshape(image.shape)

    np.testing.assert_allclose(attention.apply({"params": params}, permute(x)), permute(out), atol=1e-5)


class Halving(nn.Module):
    style: Style

    @nn.compact
    def __call__(self, x):
        return self.style.conv("conv", x, 3, stride=2)


@pytest.mark.parametrize("convention, before", [("ddpm", 0), ("adm", 1)])
def test_a_stride_two_convolution_pads_as_its_code_base_does(run, convention, before):
    x = normal(1, 2, 6, 8, 3)
    params, out = run(Halving(style(convention)), x)
    ref = ref_conv(float64(params["conv"]), float64(x), stride=2, before=before)
    np.testing.assert_allclose(out, ref, rtol=1e-4, atol=1e-5)


def test_sinusoids_follow_their_papers():
    t, width = np.array([0.0, 1.0, 999.0]), 128
    i = np.arange(64)
    ddpm = t[:, None] * np.exp(-np.log(10000) * i / 63)
    adm = t[:, None] * np.exp(-np.log(10000) * i / 64)
    expected = {
        "ddpm": np.concatenate([np.sin(ddpm), np.cos(ddpm)], axis=1),
        "adm": np.concatenate([np.cos(adm), np.sin(adm)], axis=1),
    }
    for name, values in expected.items():
        sinusoid = CONVENTIONS[name].sinusoid(jnp.asarray(t, jnp.float32), width)
        np.testing.assert_allclose(sinusoid, values, atol=2e-4)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_initial_weights_have_the_scale_of_their_code_base(convention):
    params = Halving(style(convention)).init(jax.random.key(0), jnp.zeros((1, 4, 4, 400)))
    kernel, bias = params["params"]["conv"]["kernel"], params["params"]["conv"]["bias"]
    fan_in, fan_out = 9 * 400, 9 * 3
    limit = {"ddpm": (6 / (fan_in + fan_out)) ** 0.5, "adm": fan_in**-0.5}[convention]
    assert 0.99 * limit < np.abs(kernel).max() <= limit
    assert np.std(kernel) == pytest.approx(limit / 3**0.5, rel=0.02)
    assert np.abs(bias).max() <= (limit if convention == "adm" else 0)
    assert np.any(bias) == (convention == "adm")


def test_norm_statistics_are_float32_under_bfloat16():
    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x):
            return style(dtype="bfloat16").norm("norm", x)

    # Sums over 4096 values lose all their digits in bfloat16: 256 + 1 is 256 there.
    x = (3 + normal(1, 1, 64, 64, 4)).astype(jnp.bfloat16)
    out = Norm().apply(Norm().init(jax.random.key(0), x), x)
    assert out.dtype == jnp.bfloat16
    channels = np.asarray(out, np.float64).reshape(-1, 4)
    np.testing.assert_allclose(channels.mean(axis=0), 0, atol=2e-3)
    np.testing.assert_allclose(channels.std(axis=0), 1, atol=2e-3)


def test_halve_undoes_double():
    x = normal(1, 2, 3, 4, 5)
    np.testing.assert_array_equal(halve(double(x)), x)
