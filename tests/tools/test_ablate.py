"""tools/ablate.py: pairs of settings, read and drawn."""

import json

import numpy as np
import pytest
from PIL import Image

import workdir as records
from configs import digits_text
from experiment import build
from tools.ablate import ablate, axis, define
from tools.command import parse_flags
from training.checkpoint import Checkpoints


def test_an_axis_is_a_key_of_sampling_and_its_values():
    assert axis("guidance=1;5", "rows") == [("guidance", 1.0), ("guidance", 5.0)]
    wanted = [("threshold", "static"), ("threshold", "dynamic(quantile=0.995)")]
    assert axis("threshold=static; dynamic(quantile=0.995)", "rows") == wanted


@pytest.mark.parametrize(
    "text, words", [("guidence=1", "with a KEY of"), ("guidance", "KEY=VALUE"), ("steps=x", "numbers")]
)
def test_other_axes_are_refused(text, words):
    with pytest.raises(ValueError, match=words):
        axis(text, "rows")


def test_every_pair_is_drawn_from_the_same_seeds_and_measured(tmp_path):
    config = digits_text.get_config("tiny,low=4")
    config.model.update(channels=8, multipliers=(1,), groups=4, num_heads=2, attention=())
    experiment = build(config)
    records.write_config(tmp_path, config)
    checkpoints = Checkpoints(tmp_path, 1, 0)
    checkpoints.save(0, experiment.init())
    checkpoints.close()
    argv = ["ablate", f"--workdir={tmp_path}", "--rows=threshold=static;none", "--columns=aug_level=0;0.3", "--num=40"]
    ablate(parse_flags(argv, "", define))
    pairs = json.loads((tmp_path / "ablation" / "ablation.json").read_text())["pairs"]
    assert [(pair["threshold"], pair["aug_level"]) for pair in pairs] == [
        ("static", 0.0), ("static", 0.3), ("none", 0.0), ("none", 0.3),
    ]  # fmt: skip
    assert all(pair.keys() >= {"saturated", "read_as_asked", "frechet", "psnr"} for pair in pairs)
    picture = np.asarray(Image.open(tmp_path / "ablation" / "ablation.png"))
    assert picture.shape[2] == 3 and picture.std() > 0
