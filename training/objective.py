"""The diffusion objective: from a batch to the loss of each example, as DDPM's algorithm 1 has it."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffusion.gaussian import corrupt
from diffusion.losses import Loss, Weighting, trivial
from diffusion.prediction import Parameterisation, inputs
from diffusion.sampling import normal
from diffusion.schedules import Schedule
from diffusion.times import at, uniform
from training.step import Objective, Sums
from training.tasks import Task

# apply(params, x [b h w c], noise_input [b], cond, dropout_key or None) -> out
Apply = Callable[..., jax.Array]


class Diffusion(NamedTuple):
    """The mathematics that a training fixes."""

    schedule: Schedule
    parameterisation: Parameterisation
    weighting: Weighting
    loss: Loss  # what is minimised
    mean_loss: Loss  # its part that has a trivial predictor: without the bound of a learned variance


def split(keys: jax.Array, n: int) -> jax.Array:
    """[n, b] keys from [b], each example's own."""
    return jnp.moveaxis(jax.vmap(partial(jax.random.split, num=n))(keys), 1, 0)


def losses_at(apply: Apply, diffusion: Diffusion, params, x0, cond, t, eps, dropout_key=None):
    """([b] losses, [b] mean losses) at given times t [b 1 1 1] and noise eps [b h w c]; dropout only with a key."""
    level = diffusion.schedule.level(t)
    x_t = corrupt(x0, eps, level)
    out = apply(params, *inputs(diffusion.parameterisation, x_t, t, level), cond, dropout_key)
    return diffusion.loss(out, x0, eps, t), diffusion.mean_loss(out[..., : x0.shape[-1]], x0, eps, t)


def diffusion_objective(apply: Apply, task: Task, diffusion: Diffusion) -> Objective:
    """The training objective, with its loss by logsnr beside that of the trivial predictor."""

    def objective(params, frozen, keys, batch, dropout_key):
        task_keys, time_keys, noise_keys = split(keys, 3)
        x0, cond = task.prepare(task_keys, batch, True)
        t = uniform(time_keys, diffusion.schedule)
        eps = normal(noise_keys, x0.shape[1:])
        losses, mean_losses = losses_at(apply, diffusion, params, x0, cond, t, eps, dropout_key)
        return losses, by_logsnr(diffusion, mean_losses, x0, t, batch["valid"])

    return objective


def validation_losses(apply: Apply, task: Task, diffusion: Diffusion, draws: int) -> Callable:
    """-> losses(params, batch, indices [b]) [b]: a fixed grid of noise, the same whatever the batch size.

    Example i has `draws` noises, one in each of as many equal parts of t, from keys that i alone decides.
    """

    def losses(params, batch, indices):
        base = jax.random.fold_in(jax.random.key(0), VALIDATION)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(base, indices)
        x0, cond = task.prepare(keys, batch, False)

        def draw(j):
            time_keys, noise_keys = split(jax.vmap(jax.random.fold_in, (0, None))(keys, j), 2)
            u = (j + jax.vmap(jax.random.uniform)(time_keys)) / draws
            t = at(u.reshape(-1, 1, 1, 1), diffusion.schedule)
            return losses_at(apply, diffusion, params, x0, cond, t, normal(noise_keys, x0.shape[1:]))[0]

        return jax.lax.map(draw, jnp.arange(draws)).mean(axis=0)

    return losses


def by_logsnr(diffusion: Diffusion, losses, x0, t, valid) -> Sums:
    """Mean loss and trivial loss, in all and for each of BUCKETS, over the valid examples.

    The trivial predictor is the best linear denoiser of data with the batch's mean square: a loss that does not
    fall below its line in some bucket has not begun to learn there.
    """
    level = diffusion.schedule.level(t)
    count = jnp.maximum(valid.sum(), 1)
    variance = jnp.where(valid, jnp.mean(x0**2, axis=(1, 2, 3)), 0).sum() / count
    trivials = trivial(diffusion.weighting, level, variance).reshape(-1)
    inner = jnp.array([low for low, _ in BUCKETS[1:]])
    bucket = jnp.searchsorted(inner, level.logsnr.reshape(-1), side="right")
    member = jax.nn.one_hot(bucket, len(BUCKETS)) * valid[:, None]
    counts = member.sum(axis=0)
    return {
        "trivial_loss": (jnp.where(valid, trivials, 0).sum(), valid.sum()),
        "loss_at_logsnr": (jnp.where(valid, losses, 0) @ member, counts),
        "trivial_loss_at_logsnr": (trivials @ member, counts),
    }


VALIDATION = 2**32 - 3  # the validation noise of every run alike, apart from its training steps

EDGES = (-8, -6, -4, -2, 0, 2, 4, 6, 8)
BUCKETS = tuple(zip((float("-inf"), *EDGES), (*EDGES, float("inf"))))
BUCKET_LABELS = tuple(f"{low:g}..{high:g}" for low, high in BUCKETS)
METRIC_LABELS = {"loss_at_logsnr": BUCKET_LABELS, "trivial_loss_at_logsnr": BUCKET_LABELS}
