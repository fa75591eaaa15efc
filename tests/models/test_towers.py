"""CLIP and DINOv2 on random weights: what transformers answered (make_golden_towers.py), they answer."""

import json
import pathlib

import numpy as np
import pytest
import tower_states

from models import towers


@pytest.fixture(scope="module")
def golden():
    with np.load(pathlib.Path(__file__).parent / "golden" / "towers.npz") as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(scope="module")
def folders(golden, tmp_path_factory):
    root, shapes = tmp_path_factory.mktemp("towers"), json.loads(str(golden["shapes"]))
    for name in tower_states.CONFIGS:
        tower_states.write(root / name, name, shapes[name])
    return root


@pytest.mark.parametrize("name", tower_states.CONFIGS)
def test_images_have_the_features_that_transformers_gives_them(folders, golden, name):
    vision = towers.load_vision(str(folders / name))
    assert vision.side == tower_states.SIDE
    np.testing.assert_allclose(vision.apply(vision.params, tower_states.images()).pool, golden[name], atol=1e-5)


def test_texts_have_the_features_that_transformers_gives_them(folders, golden):
    text = towers.load_text(str(folders / "clip"))
    np.testing.assert_allclose(text.apply(text.params, tower_states.tokens()), golden["clip_text"], atol=1e-5)


def test_what_comes_after_the_end_changes_nothing(folders):
    text, tokens = towers.load_text(str(folders / "clip")), tower_states.tokens()
    other = tokens.copy()
    other[0, 5:] = 7
    ours, changed = (text.apply(text.params, each) for each in (tokens, other))
    np.testing.assert_array_equal(ours[0], changed[0])


@pytest.mark.parametrize("n, m", [(37, 16), (6, 4), (4, 9)])
def test_the_weights_of_a_resize_sum_to_one_and_keep_lines(n, m):
    weights = towers.bicubic(n, m)
    np.testing.assert_allclose(weights.sum(1), 1)
    inner = (np.arange(m) + 0.5) * n / m - 0.5
    away = (inner > 1) & (inner < n - 2)  # where no edge is repeated
    np.testing.assert_allclose((weights @ np.arange(n))[away], inner[away], atol=0.1)  # a = -.75 bends a line a little


def changed(folder, tmp_path, name, **change):
    """A copy of a folder with other keys in one of its JSON files; None takes the file away."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    if change:
        (copy / name).write_text(json.dumps(json.loads((copy / name).read_text()) | change))
    else:
        (copy / name).unlink()
    return str(copy)


@pytest.mark.parametrize(
    "name, file, change, said",
    [
        ("dinov2", "config.json", {"model_type": "resnet"}, "is of model_type 'resnet'; .* are clip, dinov2"),
        ("dinov2", "config.json", {"use_swiglu_ffn": True}, "giant has another kind of MLP"),
        ("dinov2", "config.json", {"hidden_size": 64}, "the weights have another shape"),
        ("dinov2", "preprocessor_config.json", {}, "preprocessor_config.json is missing"),
        ("dinov2", "preprocessor_config.json", {"crop_size": 30}, "images of 30 are no multiple of the patch, 7"),
        ("dinov2", "model.safetensors", {}, "holds no model.safetensors"),
    ],
)
def test_another_folder_is_one_line(folders, tmp_path, name, file, change, said):
    with pytest.raises(ValueError, match=said) as error:
        towers.load_vision(changed(folders / name, tmp_path, file, **change))
    assert "\n" not in str(error.value)


def test_a_text_tower_is_clips(folders):
    with pytest.raises(ValueError, match="is of model_type 'dinov2': a CLIP score needs clip"):
        towers.load_text(str(folders / "dinov2"))
