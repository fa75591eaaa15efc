"""Latent diffusion: what lies between images and latents, what does not fit, and a run from end to end."""

import types

import jax
import numpy as np
import pytest
from PIL import Image

import drawing
from autoencoders import build_autoencoder
from conditions import Asked, without_encoder
from configs import digits, digits_text, digits_vae, folder_latent
from experiment import abstract_batch, build, build_frozen, load_latent
from models.text import TextEncoder
from modes.latents import with_statistics
from modes.model import load
from modes.train import train
from tools import reconstruct
from training.checkpoint import Checkpoints
from training.digest import digest
from training.latents import statistics
from workdir import read_config, write_config


def tiny(**keys):
    config = folder_latent.get_config("tiny")
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in keys.items()})
    return config


def test_patches_lose_nothing_and_samples_are_decoded_by_the_same_numbers():
    config = tiny(latent__mean=tuple(np.linspace(-1, 1, 12)), latent__std=tuple(np.linspace(0.5, 2, 12)))
    task, frozen = build(config).task, build(config).frozen()
    image = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    keys = jax.vmap(jax.random.key)(np.arange(3))
    x0, cond = task.prepare(frozen, keys, {"image": image}, False)
    assert x0.shape == (3, *task.sample_shape) == (3, 4, 4, 12) and cond == {}
    np.testing.assert_allclose(task.restore(frozen, x0), image / 127.5 - 1, atol=1e-5)
    first = (image[:, :2, :2].reshape(3, 12) / 127.5 - 1 - np.linspace(-1, 1, 12)) / np.linspace(0.5, 2, 12)
    np.testing.assert_allclose(x0[:, 0, 0], first, atol=1e-5)


def test_statistics_of_parts_are_those_of_the_whole():
    latents = np.random.default_rng(1).normal(3, 2, (7, 4, 4, 5)).astype(np.float32)
    mean, std = statistics([latents[:3], latents[3:]])
    np.testing.assert_allclose(mean, latents.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(std, latents.std((0, 1, 2)), rtol=1e-5)
    with pytest.raises(ValueError, match="channel 1 of the latents does not vary"):
        statistics([latents * [1, 0, 1, 1, 1]])


BAD = {
    "makes latents of .4, 4, 12., which the network does not fit: .*size is 4, which 4 multipliers halve 3 times": {
        "model__multipliers": (1, 1, 1, 1)
    },
    "does not fit latent.encoder, which takes 3 channels and sides that are multiples of 3": {
        "latent__encoder": "patches(side=3)"
    },
    "latent.encoder: patches: side: got 2.0; give a whole number": {"latent__encoder": "patches(side=2.0)"},
    "latent.encoder: patches: side: got 'a'; give": {"latent__encoder": "patches(side='a')"},
    "latent.encoder: patches: channels: got 0; give": {"latent__encoder": "patches(side=2, channels=0)"},
    "takes 1 channels": {"latent__encoder": "patches(side=2, channels=1)"},
    "latent.encoder='vqvae' is unknown; choose from diffusers, patches, run": {"latent__encoder": "vqvae"},
    "sampling.threshold=static is of pixels, and these are latents": {"sampling__threshold": "static"},
    "task.inpaint and task.low_size are of pixels, and latent.encoder is set": {"task__inpaint": True},
    "latent.encoder: run: .*config.json is not there": {"latent__encoder": "run(workdir='/nowhere')"},
    "/nowhere has no config.json: name a folder that diffusers wrote": {
        "latent__encoder": "diffusers(path='/nowhere')"
    },
}


@pytest.mark.parametrize("message", BAD)
def test_an_autoencoder_that_does_not_fit_is_one_line(message):
    with pytest.raises(ValueError, match=message) as refused:
        build(tiny(**BAD[message]))
    assert "\n" not in str(refused.value)


def test_one_autoencoder_is_named():
    with pytest.raises(ValueError, match="vae='A' and published='B': give one of the two"):
        folder_latent.get_config("path=DIR,vae=A,published=B")
    with pytest.raises(ValueError, match="latent.encoder: run: workdir is '': name that of a training of family=vae"):
        build(folder_latent.get_config("path=DIR"))


def test_statistics_of_other_latents_are_refused():
    with pytest.raises(
        ValueError, match="latent.mean has 3 and latent.std 12 numbers, and the latents of .* 12 channels"
    ):
        build(tiny(latent__mean=(0.0, 0.0, 0.0))).frozen()


def flags(workdir):
    return types.SimpleNamespace(workdir=str(workdir), allow_config_change=False)


def grey(config, **keys):
    """Of the digits, unconditional, without hooks."""
    config.data.update(shape=(8, 8, 1), classes=0)
    config.task.update(name="unconditional", flip=False)
    config.log.update(samples_every=0, validation_every=0)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in keys.items()})
    return config


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """The workdir of one, as it was before its first step."""
    workdir, config = tmp_path_factory.mktemp("vae"), grey(digits_vae.get_config("tiny"), vae__latent=2)
    write_config(workdir, config)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(0, build(config).init())
    checkpoints.wait()
    return workdir


def test_a_run_on_latents_keeps_its_statistics_resumes_and_samples(autoencoder, tmp_path):
    keys = dict(latent__encoder=f"run(workdir='{autoencoder}')", latent__mean=(), latent__std=())
    keys |= dict(model__multipliers=(1,), model__attention=(), sampling__steps=1)
    for steps in (2, 4):  # stops, and goes on
        train(grey(tiny(**keys), train__steps=steps), flags(tmp_path))
    model = load(tmp_path, ema="raw")
    state, batches = model.experiment.init(), model.experiment.batches(0)
    for _ in range(4):
        state, _ = model.experiment.train_step(state, model.experiment.frozen(), next(batches))
    saved = Checkpoints(tmp_path, read_only=True).restore(4, model.experiment.abstract)
    for part in ("params", "opt_state", "ema"):
        jax.tree.map(np.testing.assert_array_equal, getattr(saved, part), getattr(state, part))
    stored = read_config(str(tmp_path)).latent
    assert stored.digest == digest(model.experiment.frozen()["latent"]["params"])
    assert len(stored.mean) == len(stored.std) == 2 and min(stored.std) > 0
    batch = drawing.examples(model.experiment, "train", 2000)
    keys = jax.vmap(jax.random.key)(np.arange(len(batch["image"])))
    prepare = jax.jit(model.experiment.task.prepare, static_argnums=3)
    latents, _ = prepare(model.experiment.frozen(), keys, batch, False)
    np.testing.assert_allclose(latents.mean((0, 1, 2)), 0, atol=0.02)  # under other keys than they were measured
    np.testing.assert_allclose(latents.std((0, 1, 2)), 1, atol=0.02)
    assert model.sample(8).shape == (8, 8, 8, 1)
    with pytest.raises(
        ValueError, match="editing takes a model of family=diffusion on pixels, and this one's are latents"
    ):
        model.img2img(model.sample(2))


OTHERS = {
    "latents": {"latent__encoder": "patches(side=2, channels=1)", "sampling__threshold": "none"},
    "a student": {
        "distill__method": "progressive(steps=2)",
        "distill__teacher": "/nowhere",
        "diffusion__prediction": "v",
    },
}


@pytest.mark.parametrize("words", OTHERS)
def test_text_stands_beside_other_frozen_parameters(words):
    """A learned encoder of text has none of its own there."""
    config = digits_text.get_config("tiny")
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in OTHERS[words].items()})
    experiment = build(config)
    batch = abstract_batch(config, experiment.mesh, 8)
    _, sums = jax.eval_shape(experiment.train_step, experiment.abstract, experiment.abstract_frozen, batch)
    assert "loss" in sums


def test_what_is_encoded_already_is_sampled_without_its_encoder_and_with_the_rest():
    config = tiny(latent__mean=(0.0,) * 12, latent__std=(1.0,) * 12)
    params = {"w": jax.ShapeDtypeStruct((2,), np.float32)}
    encoder = TextEncoder(None, 2, 4, load=lambda shardings: pytest.fail("read"), abstract=lambda: params)
    made = build(config)
    frozen, shapes = build_frozen(config, made.mesh, encoder, build_autoencoder(config))
    assert set(shapes) == {"text", "latent"}
    sampling = without_encoder(made._replace(frozen=frozen), Asked({"text": np.zeros((1, 4, 2))}, "prompts", []))
    assert set(sampling.frozen()) == {"latent"} and sampling.frozen()["latent"]["mean"].shape == (12,)


def test_statistics_are_those_of_the_run_in_the_workdir_once_it_has_a_checkpoint(tmp_path):
    config = tiny(latent__mean=(), latent__std=())
    write_config(tmp_path, tiny(latent__mean=(9.0,) * 12))  # a start that came no further, on other data
    measured = with_statistics(config, tmp_path).latent
    assert max(measured.mean) < 1 and measured.digest
    write_config(tmp_path, tiny(latent__mean=(9.0,) * 12, latent__digest="0"))
    (tmp_path / "checkpoints" / "2").mkdir(parents=True)
    kept = with_statistics(config, tmp_path).latent
    assert kept.mean == (9.0,) * 12 and kept.std == (0.5,) * 12 and kept.digest == "0"


def test_latents_of_other_parameters_than_were_measured_are_refused():
    params = {"w": np.ones(2, np.float32)}
    config, own = tiny(latent__digest=digest(params)), jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = dict.fromkeys(("params", "mean", "std"), jax.ShapeDtypeStruct((12,), np.float32, sharding=own))

    def loaded(params):
        return load_latent(config, build_autoencoder(config)._replace(load=lambda like: params), like)

    assert loaded(params)["params"] is params
    other = {"w": 2 * params["w"]}
    with pytest.raises(
        ValueError, match=f"latent.encoder=.* has parameters {digest(other)} now.* {digest(params)}"
    ) as refused:
        loaded(other)
    assert "\n" not in str(refused.value)


def test_an_autoencoder_of_power_averages_alone_is_read_by_the_first(tmp_path):
    config = grey(digits_vae.get_config("tiny"), vae__latent=2, ema__decays=(), ema__sigma_rels=(0.05,))
    write_config(tmp_path, config)
    checkpoints, state = Checkpoints(tmp_path), build(config).init()
    checkpoints.save(0, state)
    checkpoints.wait()
    keys = dict(latent__encoder=f"run(workdir='{tmp_path}')", latent__mean=(0.0, 0.0), latent__std=(1.0, 1.0))
    params, average = build(grey(tiny(**keys))).frozen()["latent"]["params"], state.ema["power_0.05"]
    assert digest(params) == digest({name: average[name] for name in params})


def test_reconstructions_are_drawn_between_held_out_images_and_samples(autoencoder, tmp_path):
    out = tmp_path / "picture.png"
    said = reconstruct.draw({"workdir": str(autoencoder), "out": str(out), "num": 3, "judged": 8})
    assert said.startswith("reconstructions of 8 held-out images: PSNR")
    height, width = np.asarray(Image.open(out)).shape[:2]
    assert height == width  # three rows of three


def test_what_is_no_autoencoder_is_refused(autoencoder, tmp_path):
    write_config(tmp_path, digits.get_config("tiny"))
    with pytest.raises(ValueError, match="is of family=diffusion: give a run of family=vae"):
        build(tiny(latent__encoder=f"run(workdir='{tmp_path}')"))
    write_config(tmp_path, digits_vae.get_config("tiny"))
    with pytest.raises(ValueError, match="is told labels or texts .task.name=class.: train one without"):
        build(tiny(latent__encoder=f"run(workdir='{tmp_path}')"))
    with pytest.raises(ValueError, match=r"data.shape=.8, 8, 3. does not fit latent.encoder, which takes 1 channels"):
        build(tiny(latent__encoder=f"run(workdir='{autoencoder}')"))
    average = dict(latent__encoder=f"run(workdir='{autoencoder}', average='0.5')")
    found = build(grey(tiny(**average, latent__mean=(0.0, 0.0), latent__std=(1.0, 1.0))))
    with pytest.raises(ValueError, match="no weights '0.5'; --ema can be 0.995, raw"):
        found.frozen()
