"""The autoregressive family: an image is its values in raster order, each drawn given those before it.

p(x) = prod_i p(x_i | x_1 .. x_i-1, label), the values of a pixel's channels one after the other (PixelCNN, van den
Oord et al. 2016, arXiv 1601.06759; by a transformer: Child et al. 2019, arXiv 1904.10509). The likelihood is exact.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calls import Call, construct, parse_call
from diffusion.sampling import check_range
from families.family import Family, Parts, build_model, prepared
from models import TRANSFORMERS
from models.autoregressive import Transformer
from plans import keys_of, settings_of
from training import sharding
from training.step import Objective


class Tokens(NamedTuple):
    """How a value is drawn: from softmax(logits / temperature), of the fewest values that hold the mass top_p.

    Temperature 0 takes the likeliest value. Nucleus sampling: Holtzman et al. 2020, arXiv 1904.09751.
    """

    temperature: float = 1.0
    top_p: float = 1.0


def by_tokens(temperature: float = 1.0, top_p: float = 1.0) -> Tokens:
    """Raises ValueError for numbers out of range, where they are known."""
    check_range("temperature", temperature, 0, 1e6)
    check_range("top_p", top_p, 1e-6, 1)
    return Tokens(temperature, top_p)


SAMPLERS = {"tokens": by_tokens}


def build(parts: Parts) -> Family:
    """Raises ValueError for what cannot be, in one line."""
    config, task = parts.config, parts.task
    if parts.text:
        raise ValueError("task.name=text is of family=diffusion; an autoregressive model takes unconditional or class")
    checked(settings_of(config))
    module = build_model(config, TRANSFORMERS, length=math.prod(task.sample_shape), num_labels=task.labels)

    def apply(params, tokens, cond, dropout_key=None):
        train, rngs = dropout_key is not None, {"dropout": dropout_key}
        before = module.shifted(tokens)
        return module.apply({"params": params}, before, cond, train=train, rngs=rngs if train else None)[0]

    apply = sharding.gathering(parts.mesh, apply, again=config.model.remat == "none")

    def bits_of(params, x, cond, dropout_key=None):
        tokens = tokens_of(x, module.values)
        return bits_per_dim(apply(params, tokens, cond, dropout_key), tokens)

    def losses(params, frozen, memory, keys, batch, dropout_key):
        x, cond = task.prepare(frozen, keys, batch, True)
        uniform = math.log2(module.values) * batch["valid"].sum()
        return bits_of(params, x, cond, dropout_key), {"trivial_loss": (uniform, batch["valid"].sum())}, {}

    def exact(params, frozen, batch, keys):
        return bits_of(params, *task.prepare(frozen, keys, batch, False))

    def init(key):
        x, cond = prepared(parts)
        return module.init({"params": key}, tokens_of(x, module.values), cond)["params"]

    def calls(settings) -> int:
        checked(settings)
        return module.length

    return Family(
        init=init,
        objective=Objective(losses),
        validation=lambda params, frozen, batch, indices: exact(
            params, frozen, batch, jax.vmap(jax.random.key)(indices)
        ),
        sample=build_sample(parts, module),
        calls=calls,
        bits=lambda params, frozen, batch, keys: {"exact": exact(params, frozen, batch, keys)},
        check=functools.partial(check_values, module.values),
    )


def checked(settings) -> Call:
    """The sampler of these settings. Raises ValueError for what it cannot be."""
    call = parse_call(settings.sampler, "sampling.sampler")
    construct(SAMPLERS, call, "sampling.sampler")
    return call


def build_sample(parts: Parts, module: Transformer):
    """-> sample(params, frozen, seeds, given, settings) -> images, one program whatever temperature and top_p."""
    task, shape = parts.task, parts.task.sample_shape
    drawn = sharding.gathering(parts.mesh, functools.partial(draw, module), again=False)

    @functools.partial(jax.jit, static_argnames="fixed", out_shardings=parts.whole)
    def program(params, frozen, seeds, given, numbers, fixed: Call):
        keys = keys_of(seeds)
        cond = task.condition(frozen, keys, given)
        how = construct(SAMPLERS, fixed, "sampler", **numbers)
        tokens = drawn(params, cond, keys, how)
        return task.restore(frozen, image_of(tokens.reshape(-1, *shape), module.values))

    def sample(params, frozen, seeds, given, settings):
        fixed, numbers = checked(settings).split()
        return program(params, frozen, seeds, given, numbers, fixed=fixed)

    return sample


def draw(module: Transformer, params, cond, keys: jax.Array, how: Tokens) -> jax.Array:
    """int32 [b l], value by value. keys [b]: the draw of place i of an image is a function of its key and i."""

    def one(carry, place):
        before, cache = carry
        logits, cache = module.apply({"params": params}, before[:, None], cond, cache=cache, place=place)
        token = pick(jax.vmap(jax.random.fold_in, (0, None))(keys, place), logits[:, 0], how)
        return (token, cache), token

    b = len(keys)
    start = jnp.full(b, module.values, jnp.int32), module.empty_cache(b)
    return jax.lax.scan(one, start, jnp.arange(module.length))[1].T


def pick(keys: jax.Array, logits: jax.Array, how: Tokens) -> jax.Array:
    """One value for each row of logits [b values] and key [b], int32 [b].

    argmax(logits + temperature * Gumbel noise) has the law softmax(logits / temperature), at 0 too.
    """
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
    kept = nucleus(logits / jnp.maximum(how.temperature, COLDEST), how.top_p)
    return jnp.argmax(jnp.where(kept, logits + how.temperature * noise, -jnp.inf), axis=-1).astype(jnp.int32)


def nucleus(logits: jax.Array, top_p) -> jax.Array:
    """bool [b values]: the fewest values whose probabilities add up to top_p or more, the likeliest first."""
    order = jnp.argsort(-logits, axis=-1)
    p = jnp.take_along_axis(jax.nn.softmax(logits), order, axis=-1)
    before = jnp.cumsum(p, axis=-1) - p
    kept = (before < top_p) | (top_p >= 1)
    return jnp.take_along_axis(kept, jnp.argsort(order, axis=-1), axis=-1)


def bits_per_dim(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """-log2 p of the values [b l] under logits [b l values], over l: [b]."""
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
    return -log_p.mean(axis=-1) / math.log(2)


def tokens_of(x: jax.Array, values: int) -> jax.Array:
    """Images [b h w c] in [-1, 1] -> int32 [b h w c flat], k for the k-th of so many equal steps from -1 to 1."""
    return jnp.round((x + 1) * ((values - 1) / 2)).astype(jnp.int32).reshape(len(x), -1)


def image_of(tokens: jax.Array, values: int) -> jax.Array:
    """The inverse of tokens_of, but for the shape, which stays."""
    return tokens * (2 / (values - 1)) - 1.0


def codebook(values: int) -> np.ndarray:
    """uint8 [values]: the pixels that there are values for, round(255 k / (values - 1))."""
    return np.round(np.arange(values) * (255 / (values - 1))).astype(np.uint8)


def check_values(values: int, image: np.ndarray) -> None:
    """Raises ValueError for a pixel outside of the codebook. image: uint8, of any shape."""
    known = np.zeros(256, bool)
    known[codebook(values)] = True
    if not (inside := known[image]).all():
        raise ValueError(
            f"a pixel of value {image[~inside][0]} is outside the codebook of {values} values "
            f"({', '.join(map(str, codebook(values)[:3]))} ..): set model.values=256"
        )


COLDEST = 1e-6  # what top_p divides by at temperature 0: the likeliest value then holds all mass
