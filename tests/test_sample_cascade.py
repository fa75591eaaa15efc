"""Cascades: stages that fit, and images that are the same whoever else is drawn beside them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

import workdir as records
from configs import base, digits_text, imagen
from experiment import build
from modes.cascade import Stage, check_chain, read_stages, sample_cascade
from training.checkpoint import Checkpoints


def stage(name, size, low=0, channels=1, width=None):
    own = base.get_config()
    own.data.shape = (size, width or size, channels)
    own.task.low_size = low
    return Stage(name, None, own, ConfigDict())


def test_stages_that_fit_are_a_chain():
    check_chain([stage("a", 64), stage("b", 256, 64), stage("c", 1024, 256)])
    check_chain([stage("a", 8, width=12), stage("b", 16, 8, width=24)])


@pytest.mark.parametrize(
    "stages, words",
    [
        (
            [stage("a", 64), stage("b", 256, 32)],
            r"stage b takes images of \(32, 32, 1\), and stage a makes \(64, 64, 1\)",
        ),
        ([stage("a", 64, channels=3), stage("b", 256, 64)], r"takes images of \(64, 64, 1\).*makes \(64, 64, 3\)"),
        ([stage("a", 64), stage("b", 256, 64, width=512)], r"takes images of \(64, 128, 1\)"),
        ([stage("b", 256, 64)], "stage b makes images of 64 larger, and no stage"),
        ([stage("a", 64), stage("b", 256)], "a and b both start from noise"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages, words):
    with pytest.raises(ValueError, match=words) as refusal:
        check_chain(stages)
    assert "\n" not in str(refusal.value)


def test_a_stage_samples_as_its_own_config_says_and_as_the_cascades_sets():
    asked = imagen.get_config().stages.sr256
    own = base.get_config()
    own.sampling.update(steps=7, guidance=3.0)
    assert Stage("sr256", None, own, asked).settings.steps == 7
    asked.update(steps=9, aug_level=0.3, threshold="dynamic(quantile=0.995)")
    settings = Stage("sr256", None, own, asked).settings
    assert (settings.steps, settings.guidance, settings.aug_level) == (9, 3.0, 0.3)
    assert settings.threshold == "dynamic(quantile=0.995)" and own.sampling.steps == 7


def test_imagens_stages_are_named_and_their_workdirs_can_be_chosen():
    config = imagen.get_config("runs=/a")
    assert {name: stage.workdir for name, stage in config.stages.items()} == {
        "base64": "/a/imagen_base64", "sr256": "/a/imagen_sr256", "sr1024": "/a/imagen_sr1024",
    }  # fmt: skip
    assert set(imagen.get_config("digits").stages) == {"base4", "sr8"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The workdirs of two stages, whose networks are as they were initialised."""
    runs = tmp_path_factory.mktemp("runs")
    for name, arg in (("digits_text4", "tiny,size=4"), ("digits_text8", "tiny,low=4")):
        config = digits_text.get_config(arg)
        config.model.update(channels=8, multipliers=(1,), groups=4, num_heads=2, attention=())
        experiment = build(config)
        state = experiment.init()
        records.write_config(runs / name, config)
        checkpoints = Checkpoints(runs / name, 1, 0)
        checkpoints.save(0, state)
        checkpoints.close()
    return runs


class Flags(SimpleNamespace):
    def __getitem__(self, name):
        return SimpleNamespace(value=getattr(self, name))


def flags(out, **given):
    names = ("num", "label", "prompt", "prompts", "sampler", "steps", "guidance", "checkpoint", "ema", "out")
    return Flags(**dict.fromkeys(names) | {"seed": 0, "workdir": str(out)} | given)


def drawn(out, stage):
    with np.load(out / stage / "samples.npz") as file:
        return dict(file)


def test_seed_i_is_image_i_through_all_stages(trained, tmp_path):
    config = imagen.get_config(f"digits,runs={trained}")
    sample_cascade(config, flags(tmp_path / "five", num=5, prompt="a seven"))
    sample_cascade(config, flags(tmp_path / "one", num=1, prompt="a seven", seed=3))
    for name, side in (("base4", 4), ("sr8", 8)):
        five, one = drawn(tmp_path / "five", name), drawn(tmp_path / "one", name)
        assert five["images"].shape == (5, side, side, 1) and list(five["prompts"]) == ["a seven"] * 5
        np.testing.assert_array_equal(five["seeds"], np.arange(5))
        assert np.max(np.abs(five["images"][3].astype(int) - one["images"][0])) <= 1
        assert (tmp_path / "five" / name / "grid.png").exists()
        assert len(np.unique(five["images"].reshape(5, -1), axis=0)) == 5
    facts = json.loads((tmp_path / "five" / "settings.json").read_text())
    assert list(facts["stages"]) == ["base4", "sr8"] and facts["stages"]["sr8"]["aug_level"] == 0.1
    assert (tmp_path / "five" / "grid.png").read_bytes() == (tmp_path / "five" / "sr8" / "grid.png").read_bytes()


def test_flags_of_one_model_are_refused(trained, tmp_path):
    with pytest.raises(ValueError, match="--steps is of one model: for a cascade set --config.stages.STAGE.steps"):
        sample_cascade(imagen.get_config(f"digits,runs={trained}"), flags(tmp_path, steps=3, prompt="a"))


def test_a_stage_without_a_training_is_named(tmp_path):
    with pytest.raises(ValueError, match="digits_text4/config.json is not there"):
        read_stages(imagen.get_config(f"digits,runs={tmp_path}"))
