"""Laws 28, 29: every config builds, trains two steps and samples in its tiny variant; the named networks' sizes."""

import importlib
import pathlib

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import drawing
from configs import base
from experiment import build
from plans import settings_of
from workdir import flatten

ROOT = pathlib.Path(__file__).parents[2]
CASCADES = ("imagen",)  # of trained models: tests/test_cascade.py
OTHERS = ("__init__", "base", *CASCADES)
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in OTHERS)
TAUGHT = ("digits_distill",)  # by trained models: tests/test_students.py
PARAMETERS = {"cifar10": 35_746_307, "celebahq256": 113_673_219, "imagenet64": 295_904_454}


def get_config(name, arg=""):
    return importlib.import_module(f"configs.{name}").get_config(arg)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TAUGHT])
def test_tiny_trains_two_steps_and_samples_once(name):
    config = get_config(name, "tiny")
    experiment = build(config)
    state, batches = experiment.init(), experiment.batches(0)
    before = jax.tree.map(np.asarray, state.params)
    for _ in range(2):
        state, sums = experiment.train_step(state, None, next(batches))
        assert np.isfinite(sums["loss"][0])
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, state.params)
    assert int(state.step) == 2 and any(jax.tree.leaves(changed))
    condition = drawing.training_condition(experiment, config, np.arange(8))
    images = drawing.draw(experiment, config, state.params, np.arange(8), condition, settings_of(config))
    assert images.shape == (8, *config.data.shape) and images.dtype == np.uint8 and images.std() > 0


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_named_networks_have_their_published_sizes(name):
    sizes = jax.tree.map(lambda leaf: leaf.size, build(get_config(name)).abstract.params)
    assert sum(jax.tree.leaves(sizes)) == PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_config_says_what_to_expect_and_only_changes_what_base_has(name):
    module = importlib.import_module(f"configs.{name}")
    assert f"configs/{name}.py" in module.__doc__ and "--workdir" in module.__doc__
    assert flatten(module.get_config()).keys() == flatten(base.get_config()).keys()
    source = (ROOT / "configs" / f"{name}.py").read_text()
    assert [line for line in source.splitlines() if "import" in line.split()] == ["from configs import base"]


def test_words_take_flags_and_values_and_refuse_the_rest():
    word = base.words("tiny,size=32,path=/a/b", tiny=False, size=64, path="", classes=0)
    assert word == ConfigDict(dict(tiny=True, size=32, path="/a/b", classes=0))
    for arg, message in {
        "tinny": "'tinny' is unknown; choose from",
        "size": "size=VALUE",
        "tiny=1": "'tiny'",
    }.items():
        with pytest.raises(ValueError, match=message):
            base.words(arg, tiny=False, size=64)
