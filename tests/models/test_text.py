"""How text enters the networks (laws 8 and 24): past the mask nothing counts, no text at all is no NaN."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import EfficientUNet, UNet
from models.conditioning import AttentionPool
from models.layers import CONVENTIONS, Attention, Style

QUICK = {"xla_backend_optimization_level": 0}  # the time is the compiler's
STYLE = Style(CONVENTIONS["adm"], groups=4)
UNET = UNet(8, 3, 8, (1, 2), 1, (4,), groups=4, scale_shift=True, convention="adm")
EFFICIENT = EfficientUNet(8, 3, 8, (1, 2), (1, 1), groups=4, num_heads=2)
NETWORKS = {
    "unet": UNET,
    "self-attention": EFFICIENT.clone(attention=(2,)),
    "cross-attention": EFFICIENT.clone(cross_attention=(2,)),
}
TOKENS = np.array([3, 3, 0, 0, 3])  # of each example's text
NONE = [2, 3]


def texts():
    """One text twice with other padding, no text twice with other padding, and another text: [5 6 10] and its mask."""
    text = np.random.default_rng(0).normal(size=(5, 6, 10))
    text[1, :3] = text[0, :3]
    return text.astype(np.float32), np.arange(6) < TOKENS[:, None]


def same_images(n=5):
    x = np.random.default_rng(1).normal(size=(1, 8, 8, 3)).astype(np.float32)
    return np.repeat(x, n, axis=0), np.full(n, 300.0, np.float32)


def test_text_adds_layers_of_its_own_to_a_trunk_that_stays():
    """Imagen's base of 2B: the trunk is 2098M; T5-XXL's text is read by another 311M."""
    base = UNet(64, 3, 512, (1, 2, 3, 4), 3, (32, 16, 8), head_channels=64, scale_shift=True, resample="block")
    x, t = jnp.zeros((1, 64, 64, 3)), jnp.zeros(1)

    def sizes(cond):
        params = jax.eval_shape(base.init, jax.random.key(0), x, t, cond)["params"]
        return {jax.tree_util.keystr(path): leaf.size for path, leaf in jax.tree.leaves_with_path(params)}

    plain, told = sizes({}), sizes({"text": jnp.zeros((1, 8, 4096)), "text_mask": jnp.ones((1, 8), bool)})
    text = {name: size for name, size in told.items() if "text" in name}
    assert sum(plain.values()) == 2_097_572_867 and sum(text.values()) == 310_643_712
    assert {name: size for name, size in told.items() if name not in text} == plain


@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_answers_to_its_own_text_and_to_no_padding(name, run):
    text, mask = texts()
    _, out = run(NETWORKS[name], *same_images(), {"text": text, "text_mask": mask})
    np.testing.assert_allclose(out[0], out[1], atol=1e-5)
    np.testing.assert_allclose(out[2], out[3], atol=1e-5)
    for a, b in ((0, 2), (0, 4), (2, 4)):
        assert np.abs(out[a] - out[b]).max() > 1e-2


@pytest.mark.parametrize(
    "module, attends",
    [
        (AttentionPool(STYLE, 16, heads=2), lambda apply, x, text, mask: apply(text, mask)),
        (Attention(STYLE, 2), lambda apply, x, text, mask: apply(x, text, mask)),
        (Attention(STYLE, 2, width=16, own=False), lambda apply, x, text, mask: apply(x, text, mask)),
    ],
    ids=["pooling", "self-attention", "cross-attention"],
)
def test_no_text_and_its_gradient_are_finite_and_unread(module, attends, draw):
    (text, mask), x = texts(), np.random.default_rng(2).normal(size=(5, 2, 2, 8)).astype(np.float32)
    args = [a for a in (x, text, mask) if not (isinstance(module, AttentionPool) and a is x)]
    params = draw(module, *args)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def gradient(text, params):
        def total(text, params):
            return jnp.sum(attends(functools.partial(module.apply, {"params": params}), x, text, mask) ** 2)

        return jax.grad(total, argnums=(0, 1))(text, params)

    by_text, by_params = gradient(text, params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((by_text, by_params)))
    read = np.abs(by_text).max(-1) > 0
    np.testing.assert_array_equal(read, mask)


def test_cross_attention_to_no_text_adds_its_bias(draw):
    module, (text, mask), x = Attention(STYLE, 2, width=16, own=False), texts(), np.ones((5, 2, 2, 8), np.float32)
    params = draw(module, x, text, mask)
    out = module.apply({"params": params}, x, text, mask)
    np.testing.assert_allclose(out[np.array(NONE)], x[:2] + params["out"]["bias"], atol=1e-6)


class Encoder(nn.Module):
    """Tokens to rows of a table, 0 past the mask."""

    @nn.compact
    def __call__(self, tokens, mask):
        return nn.Embed(7, 10, name="rows")(tokens) * mask[:, :, None]


@pytest.mark.parametrize("network", [UNET, EFFICIENT.clone(attention=(2,))], ids=["unet", "efficient"])
def test_an_encoder_that_is_a_part_of_the_network_is_the_text_that_it_makes(network, draw):
    tokens, (_, mask) = np.arange(30).reshape(5, 6) % 7, texts()
    whole = network.clone(text_encoder=Encoder())
    params = draw(whole, *same_images(), {"tokens": tokens, "text_mask": mask})
    text = params["text_encoder"]["rows"]["embedding"][tokens] * mask[:, :, None]
    rest = {name: part for name, part in params.items() if name != "text_encoder"}
    apply = jax.jit(lambda params, cond: whole.apply({"params": params}, *same_images(), cond), compiler_options=QUICK)
    joined = apply(params, {"tokens": tokens, "text_mask": mask})
    apart = apply(rest, {"text": text, "text_mask": mask})
    np.testing.assert_allclose(joined, apart, atol=1e-5)
