"""Laws of the autoregressive family: a probability of every image, and draws from it."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import drawing
from configs import digits_autoregressive
from evaluation.images import to_uint8
from experiment import build
from families import autoregressive
from families.autoregressive import Tokens, bits_per_dim, check_values, codebook, draw, image_of, pick, tokens_of
from models.autoregressive import Transformer
from plans import settings_of
from training.tasks import normalise

NET = Transformer(length=4, values=3, channels=8, blocks=1, num_heads=2)


@pytest.fixture(scope="module")
def params():
    """No layer is zero."""
    shapes = jax.eval_shape(NET.init, jax.random.key(0), jnp.zeros((1, 4), int), {})["params"]
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return jax.tree.unflatten(tree, [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)])


def logits_of(params, tokens):
    return NET.apply({"params": params}, NET.shifted(tokens), {})[0]


def test_the_probabilities_of_all_images_add_up_to_one(params):
    every = jnp.array(list(itertools.product(range(3), repeat=4)))
    bits = np.asarray(bits_per_dim(logits_of(params, every), every), np.float64)
    assert len(every) == 81 and bits.std() > 0.1
    np.testing.assert_allclose((2 ** (-4 * bits)).sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("values", [17, 256])
def test_equally_likely_values_cost_their_logarithm(values):
    tokens = jax.random.randint(jax.random.key(0), (5, 12), 0, values)
    np.testing.assert_allclose(bits_per_dim(jnp.full((5, 12, values), 3.0), tokens), math.log2(values), rtol=1e-6)


@pytest.mark.parametrize("how", [Tokens(), Tokens(0.7, 0.8), Tokens(0.0)])
def test_keeping_keys_and_values_draws_what_looking_at_all_places_again_does(params, how):
    keys = jax.vmap(jax.random.key)(jnp.arange(6))
    drawn = jax.jit(lambda: draw(NET, params, {}, keys, how))()
    tokens, again = jnp.zeros((6, 4), int), jax.jit(lambda tokens: logits_of(params, tokens))
    for place in range(4):
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
        tokens = tokens.at[:, place].set(pick(own, again(tokens)[:, place], how))
    np.testing.assert_array_equal(drawn, tokens)
    if how.temperature:
        assert len(np.unique(drawn, axis=0)) > 1


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_values_are_drawn_in_proportion(temperature):
    """Each count within four standard deviations of what its probability says."""
    logits, n = jnp.array([0.0, 1.0, -1.0, 2.0]), 4000
    keys = jax.vmap(jax.random.key)(jnp.arange(n))
    drawn = pick(keys, jnp.broadcast_to(logits, (n, 4)), Tokens(temperature))
    p = np.exp(np.asarray(logits) / temperature)
    p /= p.sum()
    assert np.all(np.abs(np.bincount(drawn, minlength=4) - n * p) < 4 * np.sqrt(n * p * (1 - p)))


def test_without_temperature_the_likeliest_value_is_taken():
    logits = jax.random.normal(jax.random.key(0), (50, 7))
    keys = jax.vmap(jax.random.key)(jnp.arange(50))
    for how in Tokens(0.0), Tokens(0.0, 0.3), Tokens(1e-4), Tokens(1.0, 1e-6):
        np.testing.assert_array_equal(pick(keys, logits, how), jnp.argmax(logits, axis=-1))


def test_top_p_keeps_the_fewest_values_of_that_mass():
    logits = 2 * jax.random.normal(jax.random.key(0), (20, 6))
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    for top_p in (0.1, 0.5, 0.9, 1.0):
        kept = np.asarray(autoregressive.nucleus(logits, top_p))
        for row, own in zip(p, kept):
            fewest = min(n for n in range(1, 7) if np.sort(row)[::-1][:n].sum() >= top_p - 1e-6)
            assert own.sum() == fewest and row[own].min() > row[~own].max(initial=0)


@pytest.mark.parametrize("values", [2, 17, 256])
def test_values_and_pixels_are_each_others(values):
    image = codebook(values).reshape(1, -1, 1, 1)
    tokens = tokens_of(normalise(image), values)
    np.testing.assert_array_equal(tokens[0], np.arange(values))
    np.testing.assert_array_equal(to_uint8(image_of(tokens, values))[0], image.reshape(-1))
    check_values(values, image)


def test_a_pixel_outside_the_codebook_is_refused():
    image = np.array([[0, 16, 17]], np.uint8)
    check_values(256, image)
    with pytest.raises(ValueError, match=r"a pixel of value 17 is outside the codebook of 17 values \(0, 16, 32"):
        check_values(17, image)


def config(**sections):
    made = digits_autoregressive.get_config("tiny")
    for section, values in sections.items():
        made[section].update(values)
    return made


def test_data_outside_the_codebook_stop_where_they_are_read():
    experiment = build(config(model={"values": 16}))
    with pytest.raises(ValueError, match=r"outside the codebook of 16 values \(0, 17, 34 ..\): set model.values"):
        next(experiment.batches(0))


BAD = {
    "tokens: temperature: got -1.0; give 0 to": {"sampling": {"sampler": "tokens(temperature=-1.0)"}},
    "tokens: temperature: got inf": {"sampling": {"sampler": "tokens(temperature=1e999)"}},
    "tokens: top_p: got 0.0; give 1e-06 to 1": {"sampling": {"sampler": "tokens(top_p=0.0)"}},
    "sampling.sampler: tokens: .*'str'": {"sampling": {"sampler": "tokens(temperature='hot')"}},
    "sampling.sampler: tokens: .*'NoneType'": {"sampling": {"sampler": "tokens(temperature=None)"}},
    "sampling.sampler: tokens: .*'tuple'": {"sampling": {"sampler": "tokens(top_p=(1.0,))"}},
    "remat is 'all': choose from": {"model": {"remat": "all"}},
    "dtype is 'half': choose from": {"model": {"dtype": "half"}},
    "channels is 0: give at least 1": {"model": {"channels": 0}},
    "blocks is -1: give at least 1": {"model": {"blocks": -1}},
    "num_heads is 0: give at least 1": {"model": {"num_heads": 0}},
    "dropout is 1.5: give a rate in": {"model": {"dropout": 1.5}},
    "sampling.sampler='ddim' is unknown; choose from tokens": {"sampling": {"sampler": "ddim"}},
    "it takes temperature, top_p": {"sampling": {"sampler": "tokens(top_k=3)"}},
    "values is 257": {"model": {"values": 257}},
    "does not divide the 16 channels": {"model": {"num_heads": 3}},
    "sampling.guidance=2.0 is of family=diffusion": {"sampling": {"guidance": 2.0}},
    "model.name='unet' is unknown; choose from transformer": {"model": {"name": "unet"}},
}


@pytest.mark.parametrize("words", BAD)
def test_what_cannot_be_is_refused_in_one_line(words):
    with pytest.raises(ValueError, match=words) as error:
        build(config(**BAD[words]))
    assert "\n" not in str(error.value)


def test_seed_i_is_image_i_and_another_temperature_compiles_nothing(caplog):
    made = config()
    experiment, settings = build(made), settings_of(made)
    params = experiment.init().params
    labels = np.arange(8, dtype=np.int32)
    together = drawing.draw(experiment, made, params, np.arange(8), {"label": labels}, settings)
    order = np.array([5, 1, 7, 0, 2, 3, 4, 6])
    with jax.log_compiles():
        again = drawing.draw(experiment, made, params, order, {"label": labels[order]}, settings)
        cold = settings._replace(sampler="tokens(temperature=0.5, top_p=0.9)")
        assert np.any(drawing.draw(experiment, made, params, np.arange(8), {"label": labels}, cold) != together)
        assert "Finished XLA compilation" not in caplog.text
    np.testing.assert_array_equal(again, together[order])
    assert len(np.unique(together.reshape(8, -1), axis=0)) == 8
