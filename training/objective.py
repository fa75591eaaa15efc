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
from diffusion.schedules import Schedule, rate
from diffusion.times import Times, stratified, units
from training.step import Objective, Sums
from training.tasks import Task

# apply(params, x [b h w c], noise_input [b], cond, dropout_key or None) -> out
Apply = Callable[..., jax.Array]


class Diffusion(NamedTuple):
    """The mathematics of a training, for one value of the parameters where some of it is learned."""

    schedule: Schedule
    parameterisation: Parameterisation
    weighting: Weighting
    loss: Loss  # what is minimised
    mean_loss: Loss  # the weighted error, which has a trivial predictor


def split(keys: jax.Array, n: int) -> jax.Array:
    """[n, b] keys from [b], each example's own."""
    return jnp.moveaxis(jax.vmap(partial(jax.random.split, num=n))(keys), 1, 0)


def losses_at(apply: Apply, diffusion: Diffusion, params, x0, cond, t, eps, dropout_key=None):
    """([b] losses, [b] mean losses) at given times t [b 1 1 1] and noise eps [b h w c]; dropout only with a key."""
    level = diffusion.schedule.level(t)
    x_t = corrupt(x0, eps, level)
    out = apply(params, *inputs(diffusion.parameterisation, x_t, t, level), cond, dropout_key)
    return diffusion.loss(out, x0, eps, t), diffusion.mean_loss(out[..., : x0.shape[-1]], x0, eps, t)


class Drawn(NamedTuple):
    """What a step has drawn for its examples, and what it is told of them."""

    x0: jax.Array  # [b h w c]
    cond: dict[str, jax.Array]
    t: jax.Array  # [b 1 1 1]
    eps: jax.Array  # [b h w c]


# (params, frozen, memory, drawn, dropout_key) -> (losses [b], mean losses [b] or None, the times t they are of)
LossesOf = Callable[..., tuple[jax.Array, jax.Array | None, jax.Array]]


def denoising(apply: Apply, diffusion_of: Callable[..., Diffusion]) -> LossesOf:
    """The network is to say what was drawn."""

    def losses_of(params, frozen, memory, drawn: Drawn, dropout_key):
        x0, cond, t, eps = drawn
        return *losses_at(apply, diffusion_of(params), params, x0, cond, t, eps, dropout_key), t

    return losses_of


def diffusion_objective(
    apply: Apply,
    task: Task,
    diffusion_of: Callable[..., Diffusion],
    times: Times,
    strata: int = 0,
    losses_of: LossesOf | None = None,
    **more,
) -> Objective:
    """The training objective, with its mean loss by logsnr beside that of the trivial predictor.

    diffusion_of(params) is the mathematics; strata is the global batch size where times are to be stratified over
    it, 0 where they are independent; losses_of: what is asked of the network, to say what was drawn unless given;
    more: other fields of Objective.
    """
    losses_of = losses_of or denoising(apply, diffusion_of)

    def losses(params, frozen, memory, keys, batch, dropout_key):
        diffusion = diffusion_of(params)
        task_keys, time_keys, noise_keys = split(keys, 3)
        x0, cond = task.prepare(frozen, task_keys, batch, True)
        u = units(time_keys)
        u = stratified(u, batch["position"], strata) if strata else u
        t, weight = times.draw(memory, u, diffusion.schedule)
        eps = normal(noise_keys, x0.shape[1:])
        own, mean_losses, t = losses_of(params, frozen, memory, Drawn(x0, cond, t, eps), dropout_key)
        sums = {} if mean_losses is None else by_logsnr(diffusion, mean_losses, x0, t, weight, batch["valid"])
        return weight * own, sums, {"t": t, "losses": own, "valid": batch["valid"]}

    return Objective(losses, times.init, lambda memory, notes: times.learn(memory, **notes), METRIC_LABELS, **more)


def validation_losses(
    apply: Apply, task: Task, diffusion_of: Callable[..., Diffusion], times: Times, draws: int
) -> Callable:
    """-> losses(params, frozen, batch, indices [b]) [b]: a fixed grid of noise, the same whatever the batch size.

    Example i has `draws` noises, one in each of as many equal parts of the times' distribution, from keys that i
    alone decides. Times that learn are drawn as before they have learned.
    """

    def losses(params, frozen, batch, indices):
        diffusion = diffusion_of(params)
        base = jax.random.fold_in(jax.random.key(0), VALIDATION)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(base, indices)
        x0, cond = task.prepare(frozen, keys, batch, False)

        def draw(j):
            time_keys, noise_keys = split(jax.vmap(jax.random.fold_in, (0, None))(keys, j), 2)
            u = jax.vmap(jax.random.uniform)(time_keys).reshape(-1, 1, 1, 1)
            t, _ = times.draw(times.init(), stratified(u, j, draws), diffusion.schedule)
            return losses_at(apply, diffusion, params, x0, cond, t, normal(noise_keys, x0.shape[1:]))[0]

        return jax.lax.map(draw, jnp.arange(draws)).mean(axis=0)

    return losses


def by_logsnr(diffusion: Diffusion, losses, x0, t, weight, valid) -> Sums:
    """Mean loss and trivial loss, in all (as the loss is weighted) and for each of BUCKETS, over the valid examples.

    The trivial predictor is the best linear denoiser of data with the batch's mean square: a loss that does not
    fall below its line in some bucket has not begun to learn there.
    """
    level = diffusion.schedule.level(t)
    count = jnp.maximum(valid.sum(), 1)
    variance = jnp.where(valid, jnp.mean(x0**2, axis=(1, 2, 3)), 0).sum() / count
    trivials = trivial(diffusion.weighting, level, rate(diffusion.schedule, t), variance).reshape(-1)
    inner = jnp.array([low for low, _ in BUCKETS[1:]])
    bucket = jnp.searchsorted(inner, level.logsnr.reshape(-1), side="right")
    member = jax.nn.one_hot(bucket, len(BUCKETS)) * valid[:, None]
    counts = member.sum(axis=0)
    return {
        "trivial_loss": (jnp.where(valid, weight * trivials, 0).sum(), valid.sum()),
        "loss_at_logsnr": (jnp.where(valid, losses, 0) @ member, counts),
        "trivial_loss_at_logsnr": (trivials @ member, counts),
    }


VALIDATION = 2**32 - 3  # the validation noise of every run alike, apart from its training steps

EDGES = (-8, -6, -4, -2, 0, 2, 4, 6, 8)
BUCKETS = tuple(zip((float("-inf"), *EDGES), (*EDGES, float("inf"))))
BUCKET_LABELS = tuple(f"{low:g}..{high:g}" for low, high in BUCKETS)
METRIC_LABELS = {"loss_at_logsnr": BUCKET_LABELS, "trivial_loss_at_logsnr": BUCKET_LABELS}
