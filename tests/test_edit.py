"""--mode=edit on files: whole folders, bad ones among them, on a network that was not trained."""

import json
import re
import types

import numpy as np
import pytest
from PIL import Image

from configs import digits
from experiment import build
from modes.edit import check_flags, edit_files
from modes.model import Model
from modes.weights import Weights
from plans import settings_of

FLAGS = dict(
    task="inpaint", input=None, mask=None, box=None, method=None, strength=None, source=None, num=None, factor=2,
    format="png", label=None, prompt=None, seed=0,
    sampler=None, steps=None, guidance=None, checkpoint=None, ema=None, out=None,
)  # fmt: skip


class Flags(types.SimpleNamespace):
    """What absl gives: attributes, and by name the value and whether it was given."""

    def __getitem__(self, name):
        value = getattr(self, name)
        return types.SimpleNamespace(value=value, present=value != FLAGS[name])


@pytest.fixture(scope="module")
def edit():
    """edit(out, **flags) -> settings.json: one Experiment, so that its programs compile once."""
    config = digits.get_config("tiny")
    config.model.update(channels=8, blocks=1, attention=())
    config.sampling.update(steps=3, guidance=None, batch_size=8)
    experiment = build(config)
    model = Model(config, experiment, Weights(experiment.init().params, 0, "raw", ""), settings_of(config))

    def run(out, **given):
        flags = Flags(**FLAGS | dict(out=str(out), workdir=str(out)) | given)
        check_flags(flags)
        edit_files(model, flags)
        return json.loads((out / "settings.json").read_text())

    return run


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def grey(path):
    return np.asarray(Image.open(path).convert("L"))


def test_a_folder_goes_on_past_what_it_cannot_edit(edit, folder, tmp_path, caplog):
    image = Image.new("RGB", (8, 8))
    image.save(folder / "animated.gif", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    image.convert("CMYK").save(folder / "cmyk.jpg")
    Image.new("RGBA", (8, 8), (0, 0, 0, 9)).save(folder / "clear.png")
    Image.new("RGB", (8, 6)).save(folder / "low.png")  # the box is not in it
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (folder / "text.webp").write_text("no image")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="6 files could not be edited"):
        edit(out, input=str(folder), box=["0", "0", "8", "4"], method="replacement")
    settings = json.loads((out / "settings.json").read_text())
    words = {name.split("/")[-1]: line for name, line in settings["failed"].items()}
    assert "animated, 2 frames" in words["animated.gif"] and "mode CMYK" in words["cmyk.jpg"]
    assert "transparent" in words["clear.png"] and "cannot be read" in words["cut.png"]
    assert "is not in an image of 6 x 8" in words["low.png"] and "cannot be read" in words["text.webp"]
    assert len(words) == 6 and all("\n" not in line for line in words.values())
    assert [entry["seed"] for entry in settings["images"]] == [0, 1, 2]


def test_known_pixels_are_the_files_and_settings_stand_beside_them(edit, folder, tmp_path):
    settings = edit(tmp_path / "out", input=str(folder), box=["0", "4", "8", "4"], method="replacement", seed=5)
    for i in range(3):
        np.testing.assert_array_equal(grey(tmp_path / "out" / f"{i}.png")[:, :4], grey(folder / f"{i}.png")[:, :4])
        assert settings["images"][i]["seed"] == 5 + i
    assert (
        settings["method"] == "replacement" and settings["network_calls"] == 3 and settings["derivatives_a_call"] == 0
    )


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_other_formats(edit, folder, tmp_path, form):
    edit(tmp_path / "out", task="img2img", input=str(folder / "0.png"), strength=0.7, format=form)
    with Image.open(tmp_path / "out" / f"0.{form}") as image:
        assert image.format.lower() == form and image.size == (8, 8)


def test_invert_reports_its_error_and_interpolate_and_film_write_animations(edit, folder, tmp_path):
    out = tmp_path / "out"
    settings = edit(out / "invert", task="invert", input=str(folder), source="3", label="5")
    assert {"output", "reconstruction", "reconstruction_mse", "seed", "input"} == settings["images"][0].keys()
    again, own = (grey(out / "invert" / f"0{name}.png") / 255 for name in ("_reconstruction", ""))
    mse = np.mean((again - grey(folder / "0.png") / 255) ** 2)
    assert settings["images"][0]["reconstruction_mse"] == pytest.approx(mse) and own.shape == (8, 8)
    edit(out / "film", task="film", input=str(folder), num=2)
    assert {path.name for path in (out / "film").iterdir()} >= {"denoising.gif", "noising.webp", "denoising.png"}
    with Image.open(out / "film" / "denoising.gif") as film:
        assert film.n_frames == 4


def test_a_mask_file_hides_its_light_half_and_must_fit(edit, folder, tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 200
    (tmp_path / "masks").mkdir()
    for i in range(2):  # the third image has none
        Image.fromarray(mask[:, : 8 - i]).save(tmp_path / "masks" / f"{i}.png")
    with pytest.raises(ValueError, match="2 files could not"):
        edit(tmp_path / "out", input=str(folder), mask=str(tmp_path / "masks"), method="replacement")
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    lines = [*settings["failed"].values()]
    assert lines[0] == "has 8 x 8 pixels, and its mask 7 x 8: give them one size" and "has no mask" in lines[1]
    np.testing.assert_array_equal(grey(tmp_path / "out" / "0.png")[4:], grey(folder / "0.png")[4:])


@pytest.mark.parametrize(
    "flags, words",
    [
        (dict(task="paint"), "--task=paint is unknown; choose from inpaint, uncrop"),
        (dict(task="img2img"), "needs --input"),
        (dict(task="img2img", input="x", strength=0.0), r"--strength=0.0 must be in \(0, 1\]"),
        (
            dict(task="img2img", input="x", mask="y"),
            "--mask says nothing to --task=img2img, which takes input, strength",
        ),
        (dict(input="x"), "takes one of --mask"),
        (dict(input="x", box=["1", "2", "3"]), "--box=1,2,3 must be four numbers"),
        (dict(input="nowhere", box=list("0011")), "--input=nowhere is no image and no folder"),
        (dict(task="colour", input="."), "this model's images have 1 channel"),
        (dict(task="superres", input="."), "no stage of super-resolution"),
        (dict(task="interpolate", input="text.png"), "has 0 readable: interpolation takes two"),
        (dict(task="training"), "holds no grid"),
        (dict(task="img2img", input=".", label="seven"), "an edit takes one label"),
    ],
)
def test_flags_that_cannot_be_are_refused_in_a_line(edit, folder, tmp_path, flags, words, caplog):
    (folder / "text.png").write_text("no image")
    if flags.get("input") in (".", "text.png"):
        flags = flags | {"input": str(folder / flags["input"])}
    with pytest.raises(ValueError) as error:
        edit(tmp_path / "out", **flags)
    assert re.search(words, str(error.value) + caplog.text)


def test_results_do_not_go_among_the_inputs(edit, folder):
    for out in (folder, folder / "edited"):
        with pytest.raises(ValueError, match="is in the folder of --input"):
            edit(out, task="img2img", input=str(folder))
