"""latent.encoder of a config -> an Autoencoder: a trained run's, a published one's, or one without parameters."""

import jax
import jax.numpy as jnp

import workdir as records
from calls import named
from diffusion.sampling import normal
from families.family import build_model
from models import AUTOENCODERS
from models.published import autoencoder_kl
from models.vae import VAE
from training import ema, posthoc
from training.checkpoint import absolute
from training.latents import Autoencoder


def build_autoencoder(config) -> Autoencoder:
    return named(ENCODERS, config.latent.encoder, "latent.encoder")


def of_run(workdir: str, average: str = "") -> Autoencoder:
    """The variational autoencoder trained in `workdir`, its latest checkpoint under an average; '' for its first."""
    if not workdir:
        raise ValueError("workdir is '': name that of a training of family=vae (configs/folder_latent.py: vae=DIR)")
    config = records.read_config(absolute(workdir))
    if config.family != "vae":
        raise ValueError(f"{workdir} is of family={config.family}: give a run of family=vae")
    if config.task.name != "unconditional":
        raise ValueError(f"{workdir} is told labels or texts (task.name={config.task.name}): train one without")
    height, _, channels = config.data.shape
    net = build_model(config, AUTOENCODERS, size=height, out_channels=channels, latent=config.vae.latent)

    def load(like):
        name = average or ema.first_name(config.ema)
        checkpoints = posthoc.holding(workdir, name)
        step = checkpoints.latest()
        if step is None:
            raise ValueError(f"latent.encoder: no checkpoint in {workdir} yet: train it first")
        return checkpoints.restore_weights(step, name, like)

    return of_network(net, load)


def of_diffusers(path: str) -> Autoencoder:
    """An AutoencoderKL in a folder that diffusers wrote, or in vae/ of a pipeline's."""
    net = autoencoder_kl.network(path)

    def load(like):
        params = autoencoder_kl.load(path)[1]
        return jax.tree.map(lambda value, leaf: jax.device_put(value, leaf.sharding), params, like)

    return of_network(net, load)


def of_network(net: VAE, load) -> Autoencoder:
    def encode(params, keys, x):
        mean, log_variance = net.apply({"params": params}, x, method="encode")
        return mean + jnp.exp(0.5 * log_variance) * normal(keys, mean.shape[1:])

    x = jnp.zeros((1, net.size, net.size, net.out_channels))
    return Autoencoder(
        encode=encode,
        decode=lambda params, z: net.apply({"params": params}, z, method="decode"),
        factor=net.factor,
        channels=net.latent,
        image_channels=net.out_channels,
        abstract=jax.eval_shape(net.init, jax.random.key(0), x)["params"],
        load=load,
    )


def of_patches(side: int, channels: int = 3) -> Autoencoder:
    """Patches of side x side pixels as the channels of one: nothing is lost, and nothing trained."""
    for name, value in {"side": side, "channels": channels}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: got {value!r}; give a whole number, 1 or more")

    def encode(params, keys, x):
        b, h, w, c = x.shape
        blocks = x.reshape(b, h // side, side, w // side, side, c).swapaxes(2, 3)
        return blocks.reshape(b, h // side, w // side, side * side * c)

    def decode(params, z):
        b, h, w, _ = z.shape
        blocks = z.reshape(b, h, w, side, side, channels).swapaxes(2, 3)
        return blocks.reshape(b, h * side, w * side, channels)

    return Autoencoder(encode, decode, side, side * side * channels, channels, {}, lambda like: {})


ENCODERS = {"run": of_run, "diffusers": of_diffusers, "patches": of_patches}
