"""diffusers' AutoencoderKL on random weights: what it answered (make_golden_vae.py), VAE answers."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest
import unet_states

from autoencoders import ENCODERS
from models import safetensors
from models.published import autoencoder_kl
from models.vae import VAE

CONFIGS = unet_states.AUTOENCODERS


@functools.cache
def golden():
    with np.load(pathlib.Path(__file__).parent / "golden" / "autoencoder_kl.npz") as stored:
        return {name: stored[name] for name in stored.files}


def state(name):
    return unet_states.weights(json.loads(str(golden()[f"{name}_shapes"])))


@pytest.mark.parametrize("name", CONFIGS)
def test_an_imported_autoencoder_answers_as_the_original(name):
    net, params = autoencoder_kl.to_vae(state(name), CONFIGS[name])

    @jax.jit
    def answers(params, x, z):
        moments = net.apply({"params": params}, x, method="encode")
        return *moments, net.apply({"params": params}, z, method="decode")

    found = answers(params, unet_states.images(8), unet_states.images(4, 3))
    for what, value in zip(("mean", "log_variance", "decoded"), found):
        np.testing.assert_allclose(value, golden()[f"{name}_{what}"], atol=1e-4)


def test_the_published_autoencoder_has_its_size():
    """stabilityai/sd-vae-ft-mse: 83,653,863 parameters."""
    net = VAE(**autoencoder_kl.fields({"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}))
    shapes = jax.eval_shape(net.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 83_653_863


def test_settings_that_are_left_out_are_the_originals_defaults():
    left_out = autoencoder_kl.fields({})
    assert left_out == autoencoder_kl.fields({"block_out_channels": [64], "layers_per_block": 1})
    VAE(**left_out)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["sd"] | {"_class_name": "AutoencoderKL"}))
    safetensors.write(str(tmp_path / "diffusion_pytorch_model.safetensors"), state("sd"))
    return tmp_path


def test_a_folder_is_an_encoder_of_latents_with_the_same_parameters(folder):
    found = ENCODERS["diffusers"](str(folder))
    assert (found.factor, found.channels, found.image_channels) == (2, 3, 3)
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), found.abstract)
    expected = autoencoder_kl.to_vae(state("sd"), CONFIGS["sd"])[1]
    jax.tree.map(np.testing.assert_array_equal, found.load(like), expected)


BAD = {
    "act_fn='mish' cannot be expressed": {"act_fn": "mish"},
    "mid_block_add_attention=False cannot be expressed": {"mid_block_add_attention": False},
    "down_block_types AttnDownEncoderBlock2D cannot": {"down_block_types": ["AttnDownEncoderBlock2D"]},
    "use_quant_conv=True and use_post_quant_conv=False must agree": {"use_post_quant_conv": False},
    "the file has tensors that a network of these settings lacks: post_quant_conv": {
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "which does not fit": {"latent_channels": 4},
    "the file lacks decoder.up_blocks": {"layers_per_block": 2},
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_not_expressed_here_is_one_line(message):
    with pytest.raises(ValueError, match=message) as refused:
        autoencoder_kl.to_vae(state("sd"), CONFIGS["sd"] | BAD[message])
    assert "\n" not in str(refused.value)


def test_another_folder_is_one_line(folder, tmp_path):
    with pytest.raises(ValueError, match="has no config.json: name a folder that diffusers wrote"):
        ENCODERS["diffusers"](str(tmp_path / "none"))
    (folder / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(ValueError, match="holds a VQModel, and only AutoencoderKL is read"):
        ENCODERS["diffusers"](str(folder))
