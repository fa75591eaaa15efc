"""The adversarial family: a generator against a discriminator of pairs, kept in bounds by gradient penalties (R3GAN).

Huang et al. 2024, arXiv 2501.05441. With D(x) how real an image looks, x a real image, G(z) a generated one of the
same label, and f = softplus:

    L_G = E f(D(x) - D(G(z)))
    L_D = E f(D(G(z)) - D(x)) + gamma/2 E |grad_x D(x)|^2 + gamma/2 E |grad D(G(z))|^2      (R1 and R2)

Both networks step at once, from the same images.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from diffusion.sampling import normal
from families.family import Family, Parts, build_model, prepared
from models import GANS
from models.gan import NOISE
from plans import keys_of
from training import sharding
from training.objective import split
from training.step import Objective
from training.tasks import Task


def build(parts: Parts) -> Family:
    """Raises ValueError for what cannot be, in one line."""
    config, task = parts.config, parts.task
    if parts.text:
        raise ValueError("task.name=text is of family=diffusion; a gan takes unconditional or class")
    if not config.gan.gamma >= 0:
        raise ValueError(f"gan.gamma={config.gan.gamma} must be 0 or more")
    if config.optim.clip_each:
        raise ValueError("optim.clip_each clips both networks as one: use optim.clip")
    module = build_model(config, GANS, shape=task.sample_shape, num_labels=task.labels)

    def bound_to(method):
        def apply(params, x, cond):
            return module.apply({"params": params}, x, cond, method=method)

        return sharding.gathering(parts.mesh, apply, again=True)

    generate, criticise = bound_to("generate"), bound_to("criticise")

    def init(key):
        _, cond = prepared(parts)
        return module.init({"params": key}, jnp.zeros((1, NOISE)), cond)["params"]

    @partial(jax.jit, out_shardings=parts.whole)
    def program(params, frozen, seeds, given):
        keys = keys_of(seeds)
        cond = task.condition(frozen, keys, given)
        return task.restore(frozen, generate(params, normal(keys, (NOISE,)), cond).clip(-1, 1))

    return Family(
        init=init,
        objective=adversarial(task, generate, criticise, config.gan.gamma),
        validation=None,
        sample=lambda params, frozen, seeds, given, settings: program(params, frozen, seeds, given),
        calls=lambda settings: 1,
        averaged=("generator",),
        rates={"generator": 1.0, "discriminator": 1.0},
    )


def adversarial(task: Task, generate: Callable, criticise: Callable, gamma: float) -> Objective:
    """L_G + L_D of each example, each with no gradient to the other's parameters.

    generate(params, z [b NOISE], cond) -> images, criticise(params, images, cond) -> scores [b]. `told_apart` is the
    share of pairs whose real image has the higher score: 1 for a generator that has lost.
    """

    def losses(params, frozen, memory, keys, batch, dropout_key):
        task_keys, noise_keys = split(keys, 2)
        x, cond = task.prepare(frozen, task_keys, batch, True)
        fake = generate(params, normal(noise_keys, (NOISE,)), cond)
        fixed = jax.lax.stop_gradient(params)
        generator = pairing(criticise(fixed, fake, cond), criticise(fixed, x, cond))

        critic = partial(criticise, params, cond=cond)
        real_score, r1 = penalised(critic, x)
        fake_score, r2 = penalised(critic, jax.lax.stop_gradient(fake))
        discriminator = pairing(real_score, fake_score)

        found = dict(generator_loss=generator, discriminator_loss=discriminator, r1=r1, r2=r2)
        found["told_apart"] = real_score > fake_score
        valid = batch["valid"]
        sums = {name: (jnp.where(valid, each, 0).sum(), valid.sum()) for name, each in found.items()}
        return generator + discriminator + gamma / 2 * (r1 + r2), sums, {}

    return Objective(losses)


def pairing(better: jax.Array, worse: jax.Array) -> jax.Array:
    """f(worse - better) [b]: small where the first score of a pair is the higher (Jolicoeur-Martineau 2019)."""
    return jax.nn.softplus(worse - better)


def penalised(critic: Callable, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(scores [b] of x [b h w c], the square of each one's gradient to its own image [b])."""
    scores, pull = jax.vjp(critic, x)
    (gradient,) = pull(jnp.ones_like(scores))
    return scores, (gradient**2).sum(axis=(1, 2, 3))
