"""From a published folder to a workdir that samples from it, and back: one small network of diffusers' kind."""

import json
import pathlib
import sys

import jax
import numpy as np
import pytest

from experiment import build
from models import safetensors
from models.published import edm, edm2
from tools import import_weights
from workdir import read_config

MODELS = pathlib.Path(__file__).parents[1] / "models"


@pytest.fixture(scope="module")
def states():
    sys.path.append(str(MODELS))
    import unet_states

    sys.path.remove(str(MODELS))
    return unet_states


@pytest.fixture(scope="module")
def folder(states, tmp_path_factory):
    """As google/ddpm-cifar10-32 lies on disk: all in one folder."""
    root = tmp_path_factory.mktemp("ddpm")
    with np.load(MODELS / "golden" / "unets.npz") as stored:
        shapes = json.loads(str(stored["shapes"]))["diffusers_ddpm"]
    safetensors.write(str(root / "diffusion_pytorch_model.safetensors"), states.weights(shapes))
    (root / "config.json").write_text(json.dumps(states.DDPM | {"_class_name": "UNet2DModel"}))
    (root / "scheduler_config.json").write_text(json.dumps({"beta_schedule": "linear", "num_train_timesteps": 1000}))
    return root


def run(*words):
    import_weights.main(["", *words])


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "ddpm"
    run("--format=diffusers", f"--source={folder}", f"--workdir={workdir}")
    return workdir


def test_the_config_builds_the_same_network(workdir):
    config = read_config(workdir)
    assert config.data.shape == (8, 8, 3) and config.task.name == "unconditional"
    assert config.model.channels == 32 and config.model.attention == (4,) and config.model.convention == "ddpm"
    assert config.diffusion.schedule == "linear(steps=1000)" and config.diffusion.prediction == "eps"


def test_what_is_exported_is_what_was_imported(workdir, folder, tmp_path):
    run(f"--export={tmp_path}", f"--workdir={workdir}")
    there, here = (
        safetensors.tensors(str(path / "diffusion_pytorch_model.safetensors")) for path in (folder, tmp_path / "unet")
    )
    assert there.keys() == here.keys()
    for name, tensor in there.items():
        np.testing.assert_array_equal(here[name].read(), tensor.read())
    assert json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())["beta_schedule"] == "linear"
    assert json.loads((tmp_path / "model_index.json").read_text())["unet"] == ["diffusers", "UNet2DModel"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["--format=diffusers", "--source=nowhere"], "nowhere has no config.json"),
        (["--format=guided_diffusion", "--source=mine.pt"], "mine is none of the published files"),
        (["--format=edm"], "give --format and --source to import, or --export to export"),
        (["--format=torch", "--source=x"], "--format=torch"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, capsys, words, said):
    with pytest.raises(SystemExit) as stopped:
        run(*words, f"--workdir={tmp_path}")
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and said in error and error.count("\n") == 1


def test_a_workdir_that_holds_a_run_is_left_alone(workdir, folder, capsys):
    with pytest.raises(SystemExit):
        run("--format=diffusers", f"--source={folder}", f"--workdir={workdir}")
    assert "holds checkpoints already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change, said",
    [
        ({"beta_start": 0.00085}, "linear from 0.00085 to 0.02 with epsilon is not known"),
        ({"num_train_timesteps": 4000}, "a linear schedule of 4000 steps is another one than DDPM's"),
        ({"prediction_type": "flow"}, "with flow is not known"),
    ],
)
def test_another_training_is_refused(folder, tmp_path, change, said):
    said_there = json.loads((folder / "scheduler_config.json").read_text())
    (tmp_path / "scheduler_config.json").write_text(json.dumps(said_there | change))
    with pytest.raises(ValueError, match=said):
        import_weights.scheduler_keys(str(tmp_path))


@pytest.mark.parametrize("name", ["song", "edm2"])
def test_edms_and_edm2s_networks_become_configs_that_build_them(name, states):
    with np.load(MODELS / "golden" / "recipes.npz") as stored:
        tensors = states.weights({key: tuple(shape) for key, shape in json.loads(str(stored["shapes"]))[name].items()})
    net, params = edm.to_unet(tensors) if name == "song" else edm2.to_unet(tensors, head_channels=8)
    keys = import_weights.PRECONDITIONED | ({"task.augment": 0.12} if name == "song" else {})
    config = import_weights.config_of(import_weights.Imported(net, params, keys))
    shapes = jax.tree.map(lambda leaf: leaf.shape, build(config).abstract.params)
    assert shapes == jax.tree.map(np.shape, params)
