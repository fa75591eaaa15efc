"""What the Python API promises, on a network that was not trained: shapes, exactness, seeds, one compilation."""

import jax
import numpy as np
import pytest

import drawing
from configs import digits, digits_text
from evaluation.images import to_uint8
from experiment import build
from modes.model import Model
from modes.weights import Weights
from plans import settings_of


def untrained(arg="tiny", recipe=digits, **task):
    config = recipe.get_config(arg)
    config.task.update(**task)
    config.model.update(channels=8, blocks=1, attention=())
    config.sampling.update(steps=3, guidance=None)
    experiment = build(config)
    return Model(config, experiment, Weights(experiment.init().params, 0, "raw", ""), settings_of(config))


def woken(model):
    """The last layer is zero at the start: with this one what the network is told matters."""
    params = dict(model.weights.params)
    noise = jax.random.normal(jax.random.key(0), params["conv_out"]["kernel"].shape)
    params["conv_out"] = params["conv_out"] | {"kernel": 0.1 * noise}
    return model._replace(weights=model.weights._replace(params=params))


@pytest.fixture(scope="module")
def model():
    return untrained()


@pytest.fixture(scope="module")
def images(model):
    return model.experiment.source("train").read(np.arange(4))["image"]


HIDDEN = np.zeros((8, 8), bool)
HIDDEN[:, 4:] = True


def test_what_is_not_hidden_comes_back_to_the_bit_and_another_mask_compiles_nothing(model, images, caplog):
    def compiled():
        return "Finished XLA compilation" in caplog.text

    each = np.stack([HIDDEN, HIDDEN, HIDDEN.T, ~HIDDEN])
    with jax.log_compiles():
        filled = model.inpaint(images, HIDDEN, method="replacement", label=3)
        assert compiled()
        caplog.clear()
        other = model.inpaint(images[::-1], each, method="replacement", label=[1, 2, 3, 4], seed=9)
        assert not compiled()
    np.testing.assert_array_equal(filled[:, ~HIDDEN], images[:, ~HIDDEN])
    np.testing.assert_array_equal(other[3][HIDDEN], images[0][HIDDEN])
    assert np.any(filled[:, HIDDEN] != images[:, HIDDEN])


def test_seed_i_is_image_i_whatever_is_edited_beside_it(model, images):
    together = model.img2img(images, 0.7, seed=5, label=3)
    alone = model.img2img(images[2:3], 0.7, seed=7, label=3)
    assert np.abs(together[2].astype(int) - alone[0]).max() <= 1


def test_the_noise_that_is_found_leads_back(model, images):
    """An untrained network says eps = 0, of which DDIM is an exact inverse of itself, thresholding apart."""
    model = model.using(threshold="none")
    np.testing.assert_array_equal(model.generate(model.invert(images)), images)
    np.testing.assert_array_equal(model.generate(model.invert(images, strength=0.5)), images)
    walk = model.interpolate(images[:2], images[2:], frames=3)
    np.testing.assert_array_equal(walk[:, 0], images[:2])
    np.testing.assert_array_equal(walk[:, -1], images[2:])
    assert model.variations(images[:1], n=2, strength=0.5).shape == (1, 2, 8, 8, 1)


def test_a_film_ends_in_the_image(model):
    path, guesses = model.film(2, seed=1, label=3)
    assert path.shape == (2, 4, 8, 8, 1) and guesses.shape == (2, 3, 8, 8, 1)
    np.testing.assert_allclose(path[:, -1], guesses[:, -1], atol=1e-6)
    drawn = model.sample(2, seed=1, label=3)
    assert np.abs(to_uint8(path[:, -1]).astype(int) - drawn).max() <= 1


def test_a_prompt_is_heard_by_what_is_made_up():
    """One for all, or one for each; and by a stage of super-resolution, too."""
    stage = untrained("tiny,low=4", digits_text)
    awake = jax.tree.map(lambda p: p + 0.05 * jax.random.normal(jax.random.key(0), p.shape), stage.weights.params)
    stage = stage._replace(weights=stage.weights._replace(params=awake))
    small = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 1)).astype(np.uint8)
    sevens = stage.superres(small, prompt="a seven")
    np.testing.assert_array_equal(stage.superres(small, prompt=["a seven"] * 2), sevens)
    told = stage.superres(small, prompt=["a seven", "a two"])
    np.testing.assert_array_equal(told[0], sevens[0])
    assert np.any(told[1] != sevens[1])


def test_an_enlarged_image_has_the_small_one_as_its_means(model):
    """Though the untrained network's images leave the range: each pixel is rounded, and so are means, to one half."""
    small = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 1)).astype(np.uint8)
    large = model.enlarge(small).astype(np.float64)
    assert np.abs(large.reshape(2, 4, 2, 4, 2, 1).mean((2, 4)) - small).max() <= 0.5


def test_super_resolution_of_one_tile_is_the_stages_own_and_any_other_size_is_its_tiles(model):
    stage = woken(untrained(low_size=4))
    small = np.random.default_rng(0).integers(0, 256, (2, 3, 9, 1)).astype(np.uint8)
    tile = np.concatenate([small[:, :, :4], small[:, 2:, :4]], axis=1)
    one = stage.superres(tile, label=3)
    rows = {"low_res": tile, "label": np.full(2, 3, np.int32)}
    own = drawing.draw(stage.experiment, stage.config, stage.weights.params, np.arange(2), rows, stage.settings)
    assert np.abs(one.astype(int) - own).max() <= 1 and one.std() > 0
    assert stage.superres(small, label=3).shape == (2, 6, 18, 1)  # lower than a tile, and wider
    with pytest.raises(ValueError, match="no stage of super-resolution"):
        model.superres(small)
    with pytest.raises(ValueError, match="use superres"):
        stage.img2img(one, label=3)


def test_a_model_that_was_trained_to_inpaint_is_told_what_is_known(images):
    model = woken(untrained("tiny,inpaint"))
    filled = model.inpaint(images, HIDDEN, label=3)
    np.testing.assert_array_equal(filled[:, ~HIDDEN], images[:, ~HIDDEN])
    changed = images.copy()
    changed[:, :, :4] = 255 - changed[:, :, :4]
    assert np.any(model.inpaint(changed, HIDDEN, label=3)[:, HIDDEN] != filled[:, HIDDEN])
    changed[:, :, 4:] ^= 77
    changed[:, :, :4] = images[:, :, :4]
    np.testing.assert_array_equal(model.inpaint(changed, HIDDEN, label=3), filled)  # what is hidden does not matter


@pytest.mark.parametrize(
    "words, call",
    [
        ("hides all of image 1", lambda m, x: m.inpaint(x, np.stack([HIDDEN, HIDDEN | True, HIDDEN, HIDDEN]))),
        ("hides nothing of image 0", lambda m, x: m.inpaint(x, HIDDEN & False)),
        (r"the mask is \[4, 8\], the image \[8, 8\]", lambda m, x: m.inpaint(x, HIDDEN[:4])),
        (r"strength: got 1.5; give a time in \(0, 1\]", lambda m, x: m.img2img(x, 1.5)),
        ("label 10: give 0 to 9", lambda m, x: m.img2img(x, label=10)),
        ("method='repant' is unknown; choose from", lambda m, x: m.inpaint(x, HIDDEN, method="repant")),
        ("it takes jump, resamplings", lambda m, x: m.inpaint(x, HIDDEN, method="repaint(jumps=3)")),
        ("both sides divided", lambda m, x: m.enlarge(x)),
        ("give 2 at most", lambda m, x: m.inpaint(x, HIDDEN, method="repaint(jump=3)")),
    ],
)
def test_what_cannot_be_edited_is_refused_in_words(model, images, words, call):
    with pytest.raises(ValueError, match=words):
        call(model, images)
