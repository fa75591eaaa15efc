"""The variational autoencoder (Kingma and Welling 2014): its bound, and sampling from its prior.

All is in bits per dimension: loss = -log p(x | z) + beta KL(q(z | x) || N(0, 1)), whose beta = 1 is the bound on the
log-likelihood, and any other a trade of detail against an orderly latent space (Higgins et al. 2017). One scale for
each colour channel, learned, says how exact the decoder is (Rybkin et al. 2021): nothing is to be tuned there.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from calls import choose
from diffusion.likelihood import normal_kl
from diffusion.sampling import normal
from families.family import Family, Parts, build_model, prepared
from models import AUTOENCODERS
from plans import keys_of
from training import sharding
from training.objective import VALIDATION, split
from training.step import Objective

BIN = 2 / 255  # width of one of 256 values on [-1, 1]
FIRST_LOG_SCALE = -1.0


def build(parts: Parts) -> Family:
    """Raises ValueError for what cannot be, in one line."""
    config, task = parts.config, parts.task
    beta, log_likelihood = config.vae.beta, choose(LIKELIHOODS, config.vae.likelihood, "vae.likelihood")
    if not beta >= 0:
        raise ValueError(f"vae.beta={beta} must be 0 or more")
    if parts.text:
        raise ValueError("task.name=text is of family=diffusion; a vae takes unconditional or class")
    network = build_network(parts)

    def encoded(params, frozen, keys, batch, train):
        """(x, cond, the posterior's mean and log variance), of a batch."""
        x, cond = task.prepare(frozen, keys, batch, train)
        return x, cond, *network.encode(params, x, cond)

    def bound(params, keys, x, cond, mean, log_variance) -> "Bound":
        z = mean + jnp.exp(0.5 * log_variance) * normal(keys, mean.shape[1:])
        return elbo(log_likelihood, x, network.decode(params, z, cond), params["log_scale"], mean, log_variance)

    def losses(params, frozen, memory, keys, batch, dropout_key):
        task_keys, noise_keys = split(keys, 2)
        found = bound(params, noise_keys, *encoded(params, frozen, task_keys, batch, True))
        valid = batch["valid"]
        sums = {name: (jnp.where(valid, each, 0).sum(), valid.sum()) for name, each in found._asdict().items()}
        return found.loss(beta), sums, {}

    def draws(params, frozen, keys, batch) -> "Bound":
        """The mean of several draws of the latents."""
        seen = encoded(params, frozen, keys, batch, False)

        def draw(j):
            return bound(params, jax.vmap(jax.random.fold_in, (0, None))(keys, j), *seen)

        found = jax.lax.map(draw, jnp.arange(config.evaluation.validation_draws))
        return jax.tree.map(lambda each: each.mean(axis=0), found)

    def validation(params, frozen, batch, indices):
        base = jax.random.fold_in(jax.random.key(0), VALIDATION)
        return draws(params, frozen, jax.vmap(jax.random.fold_in, (None, 0))(base, indices), batch).loss(1.0)

    def bits(params, frozen, batch, keys):
        found = draws(params, frozen, keys, batch)
        return {"elbo": found.loss(1.0), "elbo/reconstruction": found.reconstruction, "elbo/kl": found.kl}

    @partial(jax.jit, out_shardings=parts.whole)
    def program(params, frozen, seeds, given):
        keys = keys_of(seeds)
        cond = task.condition(frozen, keys, given)
        return task.restore(frozen, network.decode(params, normal(keys, network.latent_shape), cond).clip(-1, 1))

    return Family(
        init=lambda key: network.init(key) | {"log_scale": jnp.full(task.sample_shape[2:], FIRST_LOG_SCALE)},
        objective=Objective(losses),
        validation=validation,
        sample=lambda params, frozen, seeds, given, settings: program(params, frozen, seeds, given),
        calls=lambda settings: 1,
        bits=bits,
    )


class Bound(NamedTuple):
    """The two parts of the negative bound, in bits per dimension of the image, each [b]."""

    reconstruction: Array
    kl: Array

    def loss(self, beta: float) -> Array:
        return self.reconstruction + beta * self.kl


def elbo(log_likelihood: Callable, x: Array, decoded: Array, log_scale: Array, mean: Array, log_variance: Array):
    """The Bound of images x [b h w c] by one draw of the latents, decoded [b h w c]; mean and log_variance are q's."""
    per_bit = math.prod(x.shape[1:]) * math.log(2)
    kl = normal_kl(mean, log_variance, 0.0, 0.0)
    return Bound(-total(log_likelihood(x, decoded, log_scale)) / per_bit, total(kl) / per_bit)


def total(each: Array) -> Array:
    """[b ..] -> [b]."""
    return each.sum(axis=tuple(range(1, each.ndim)))


def discretised_logistic(x: Array, mean: Array, log_scale: Array) -> Array:
    """log of the mass that a logistic puts on the bin of x, one of 256 values in [-1, 1], elementwise in nats.

    The end bins reach to infinity, so that the 256 masses sum to one (Kingma et al. 2016; Salimans et al. 2017).
    """
    rate = jnp.exp(-log_scale)
    above, below = rate * (x - mean + BIN / 2), rate * (x - mean - BIN / 2)
    up, down = jax.nn.log_sigmoid(above), jax.nn.log_sigmoid(-below)
    # s(a) - s(b) = s(a) s(-b) (1 - e^(b - a)): no difference of nearly equal numbers
    inside = up + down + jnp.log(-jnp.expm1(-rate * BIN))
    return jnp.where(x < -0.999, up, jnp.where(x > 0.999, down, inside))


def dequantised_gaussian(x: Array, mean: Array, log_scale: Array) -> Array:
    """A bound on the log of the mass that N(mean, scale^2) puts on the bin of x, elementwise in nats.

    The mean of the log density over the bin, plus the log of its width: at most the log of the mass (Theis et al.
    2016), in closed form as the variance of uniform noise in the bin is BIN^2 / 12.
    """
    square = ((x - mean) ** 2 + BIN**2 / 12) * jnp.exp(-2 * log_scale)
    return math.log(BIN) - 0.5 * (math.log(2 * math.pi) + 2 * log_scale + square)


LIKELIHOODS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "logistic": discretised_logistic,
    "gaussian": dequantised_gaussian,
}


class Network(NamedTuple):
    init: Callable  # key -> params
    encode: Callable  # (params, x, cond) -> (mean, log variance)
    decode: Callable  # (params, z, cond) -> x
    latent_shape: tuple[int, int, int]


def build_network(parts: Parts) -> Network:
    """The autoencoder of config.model."""
    config, task = parts.config, parts.task
    height, width, channels = task.sample_shape
    sizes = dict(size=height, out_channels=channels, latent=config.vae.latent, num_labels=task.labels)
    module = build_model(config, AUTOENCODERS, **sizes)
    if width % module.factor:
        raise ValueError(f"data.shape={task.sample_shape}: the network halves its width to {width} / {module.factor}")

    def bound_to(method):
        def apply(params, x, cond):
            return module.apply({"params": params}, x, cond.get("label"), method=method)

        return sharding.gathering(parts.mesh, apply, again=True)

    def init(key):
        x, cond = prepared(parts)
        return module.init({"params": key}, x, cond.get("label"))["params"]

    latent_shape = (height // module.factor, width // module.factor, config.vae.latent)
    return Network(init, bound_to("encode"), bound_to("decode"), latent_shape)
