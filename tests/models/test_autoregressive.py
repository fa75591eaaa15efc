"""Laws of the causal transformer: what a place sees, and that keeping keys and values changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.autoregressive import Transformer

NET = Transformer(length=12, values=5, channels=16, blocks=2, num_heads=2, num_labels=3)
TOKENS = jax.random.randint(jax.random.key(1), (4, 12), 0, 5)
COND = {"label": jnp.array([0, 1, 2, 0])}


@pytest.fixture(scope="module")
def params():
    """No layer is zero, so that every place hears of all that it may see."""
    shapes = jax.eval_shape(NET.init, jax.random.key(0), TOKENS, COND)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return jax.tree.unflatten(tree, [0.5 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)])


@pytest.fixture(scope="module")
def logits_of(params):
    return jax.jit(lambda tokens: NET.apply({"params": params}, NET.shifted(tokens), COND)[0])


def test_a_place_sees_the_values_before_it_and_no_other(logits_of):
    logits = np.asarray(logits_of(TOKENS))
    for place in range(12):
        other = np.asarray(logits_of(TOKENS.at[:, place].set((TOKENS[:, place] + 1) % 5)))
        np.testing.assert_array_equal(other[:, : place + 1], logits[:, : place + 1])
        assert np.all(np.any(other[:, place + 1 :] != logits[:, place + 1 :], axis=-1))


def test_the_gradient_to_later_values_is_exactly_zero(params):
    """Of each place's logits to the embedding of each place's value."""

    def logits(shifts):
        moved = {**params, "place": params["place"] + shifts}
        return NET.apply({"params": moved}, NET.shifted(TOKENS[:1]), {"label": COND["label"][:1]})[0].sum(axis=(0, 2))

    seen = np.abs(jax.jit(jax.jacrev(logits))(jnp.zeros((12, 16)))).max(axis=-1)
    assert np.all(seen[np.triu_indices(12, 1)] == 0)
    assert np.all(seen[np.tril_indices(12)] > 0)


def test_kept_keys_and_values_give_the_logits_of_all_places_at_once(params, logits_of):
    def one(cache, inputs):
        before, place = inputs
        logits, cache = NET.apply({"params": params}, before[:, None], COND, cache=cache, place=place)
        return cache, logits[:, 0]

    _, kept = jax.jit(lambda x: jax.lax.scan(one, NET.empty_cache(4), (x.T, jnp.arange(12))))(NET.shifted(TOKENS))
    np.testing.assert_allclose(kept.swapaxes(0, 1), logits_of(TOKENS), rtol=1e-4, atol=1e-4)


def test_untrained_all_values_are_equally_likely():
    params = jax.jit(NET.init)(jax.random.key(0), TOKENS, COND)
    assert not np.any(NET.apply(params, NET.shifted(TOKENS), COND)[0])


@pytest.mark.parametrize("fields, words", [({"num_heads": 3}, "does not divide the 16"), ({"values": 257}, "2 to 256")])
def test_sizes_that_cannot_be_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        NET.clone(**fields)
