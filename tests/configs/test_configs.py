"""Laws 28, 29: every config builds, trains two steps and samples in its tiny variant; the named networks' sizes."""

import importlib
import pathlib
import re

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import drawing
from calls import parse_call
from configs import base
from diffusion.gaussian import kept
from diffusion.grids import trailing
from diffusion.schedules import SCHEDULES
from experiment import build
from plans import settings_of
from workdir import flatten

ROOT = pathlib.Path(__file__).parents[2]
CASCADES = ("imagen",)  # of trained models: tests/test_cascade.py
OTHERS = ("__init__", "base", *CASCADES)
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in OTHERS)
TAUGHT = ("digits_distill",)  # by trained models: tests/test_students.py
# By config:words. Those of EDM, EDM2 and DiT are counted by tests/models/make_golden_recipes.py --count.
PARAMETERS = {
    "cifar10": 35_746_307,
    "celebahq256": 113_673_219,
    "imagenet64": 295_904_454,
    "iddpm": 52_546_438,
    "iddpm:imagenet64,cond": 273_049_350,
    "adm:256": 553_838_086,
    "adm:up512": 308_835_270,
    "edm": 55_735_299,
    "edm:uncond": 55_733_891,
    "edm:imagenet64": 295_899_267,
    "edm2:s": 280_209_253,
    "edm2:xl": 1_119_276_709,
}
# Fixed features, the loss's own, and the layers by which our upsamplers are told a level of augmentation.
NOT_COUNTED = re.compile("frequency|phase|uncertainty|aug_")


# On a network of one level, each kind of which has tests of its own: it compiles in half the time.
ONE_LEVEL = ("adm", "edm", "edm2", "iddpm", "sid2")


def get_config(name, arg=""):
    name, _, words = name.partition(":")
    return importlib.import_module(f"configs.{name}").get_config(arg or words)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TAUGHT])
def test_tiny_trains_two_steps_and_samples_once(name):
    config = get_config(name, "tiny")
    if name in ONE_LEVEL:
        config.model.update(multipliers=(1,), attention=())
    experiment = build(config)
    state, batches = experiment.init(), experiment.batches(0)
    before = jax.tree.map(np.asarray, state.params)
    for _ in range(2):
        state, sums = experiment.train_step(state, experiment.frozen(), next(batches))
        assert np.isfinite(sums["loss"][0])
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), before, state.params)
    assert int(state.step) == 2 and any(jax.tree.leaves(changed))
    condition = drawing.training_condition(experiment, config, np.arange(8))
    images = drawing.draw(experiment, config, state.params, np.arange(8), condition, settings_of(config))
    assert images.shape == (8, *config.data.shape) and images.dtype == np.uint8 and images.std() > 0


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_named_networks_have_their_published_sizes(name):
    leaves = jax.tree.leaves_with_path(build(get_config(name)).abstract.params)
    sizes = [leaf.size for path, leaf in leaves if not NOT_COUNTED.search(jax.tree_util.keystr(path))]
    assert sum(sizes) == PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_config_says_what_to_expect_and_only_changes_what_base_has(name):
    module = importlib.import_module(f"configs.{name}")
    assert f"configs/{name}.py" in module.__doc__ and "--workdir" in module.__doc__
    assert flatten(module.get_config()).keys() == flatten(base.get_config()).keys()
    source = (ROOT / "configs" / f"{name}.py").read_text()
    assert [line for line in source.splitlines() if "import" in line.split()] == ["from configs import base"]


def test_sid2_renews_about_as_much_noise_a_step_as_its_source():
    """There std^2 = sigma_s^2 (1 - (1 - .25 (1 - r))^2), r^2 = SNR_t / SNR_s."""
    config = get_config("sid2")
    schedule = SCHEDULES[config.diffusion.schedule]()
    times = trailing(schedule, config.sampling.steps)
    noisy, clean = schedule.level(times[100:101]), schedule.level(times[101:102])
    eta = dict(parse_call(config.sampling.sampler, "sampling.sampler").arguments)["eta"]
    r = np.sqrt(kept(noisy, clean))
    np.testing.assert_allclose(eta**2 * (1 - r**2), 1 - (1 - 0.25 * (1 - r)) ** 2, rtol=0.02)


BAD_WORDS = {
    "adm:128,256": "config words 128 and 256 exclude each other: give one of 128, 256, 512, up256, up512",
    "adm:64": "config word '64' is unknown; choose from",
    "edm:uncond,imagenet64": "config words uncond and imagenet64 exclude each other",
    "edm2:s,xl": "config words s and xl exclude each other",
    "iddpm:cond": "config word 'cond' is of ImageNet-64",
    "dit:xl,patch": "patch=VALUE",
    "dit:size=abc": "config word 'size'='abc': give a whole number",
    "folder:path=x,size=64y": "config word 'size'='64y': give a whole number",
    "digits_distill:teacher,consistency": "config words teacher and consistency exclude each other",
    "digits_distill:consistency,untaught": "config words consistency and untaught exclude each other",
    "digits_distill:consistency,steps=4": "steps and guided are of progressive stages: .* beside consistency",
    "digits_distill:teacher,guided": "steps and guided are of progressive stages: .* beside teacher",
}


@pytest.mark.parametrize("name", BAD_WORDS)
def test_words_that_a_recipe_cannot_take_are_refused_in_one_line(name):
    with pytest.raises(ValueError, match=BAD_WORDS[name]) as refused:
        get_config(name)
    assert "\n" not in str(refused.value)


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
