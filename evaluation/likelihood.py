"""Bits per dimension of held-out images under any model: by the variational bound, and by the probability-flow ODE.

    bits = bound(...)                                        # (params, frozen, batch, keys [b]) -> {name: [b]}
    for name, result in likelihood(bits, ...): print(name, result.value)

Both are of the model without guidance and without a threshold, whose samples have no density.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.likelihood import continuous_bound, variational_bound
from diffusion.prediction import Denoise
from diffusion.probability_flow import bits_per_dim, dequantise, hutchinson, log_likelihood, walk
from diffusion.schedules import Schedule
from evaluation.results import Result

Bits = Callable[..., dict[str, jax.Array]]  # (params, frozen, batch, keys [b]) -> bits/dim of each image by name
FORWARD = 1.0  # the fixed variance of a model that learns none: the forward step's, DDPM's choice


def bound(
    prepare: Callable, denoiser: Callable[..., Denoise], schedule_of: Callable[[Any], Schedule], draws: int
) -> Bits:
    """The variational bound: every level of a table once, or `draws` strata of logsnr where time is continuous.

    vlb is the sum of vlb/prior, vlb/diffusion and vlb/data.
    """

    def bits(params, frozen, batch, keys):
        schedule = schedule_of(params)
        x0, cond = prepare(frozen, keys, batch, False)
        denoise = denoiser(params, frozen, cond)
        if schedule.steps:
            found = variational_bound(keys, with_variance(denoise), schedule, x0)
        else:
            found = continuous_bound(keys, denoise, schedule, x0, draws)
        parts = {"vlb/prior": found.prior, "vlb/diffusion": found.terms[:-1].sum(0), "vlb/data": found.terms[-1]}
        return {"vlb": found.total} | parts

    return bits


def with_variance(denoise: Denoise) -> Denoise:
    """Predictions with the learned variance, or FORWARD where there is none."""

    def complete(x, t):
        guess = denoise(x, t)
        return guess._replace(frac=FORWARD) if guess.frac is None else guess

    return complete


def flow(
    prepare: Callable, denoiser: Callable[..., Denoise], schedule_of: Callable[[Any], Schedule], steps: int
) -> Bits:
    """By the ODE in `steps` steps of Heun's method, the divergence by one Rademacher vector an image."""

    def bits(params, frozen, batch, keys):
        schedule = schedule_of(params)
        noise_keys, vector_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        _, cond = prepare(frozen, keys, batch, False)
        x = dequantise(noise_keys, batch["image"].astype(jnp.float32))
        path = walk(denoiser(params, frozen, cond), schedule, steps)
        found = log_likelihood(path.denoise, path.schedule, x, path.times, hutchinson(vector_keys))
        return {"ode": bits_per_dim(found.log_p, math.prod(x.shape[1:]))}

    return bits


def likelihood(bits: Callable, batches: Iterable[dict], settings: dict) -> Iterator[tuple[str, Result]]:
    """Means over the valid images, each with its standard error. bits: (batch) -> ({name: [b]}, valid [b])."""
    found: dict[str, list] = {}
    for batch in batches:
        values, valid = bits(batch)
        for name, each in values.items():
            found.setdefault(name, []).append(np.asarray(each, np.float64)[np.asarray(valid)])
    for name, parts in found.items():
        values = np.concatenate(parts)
        error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
        settings = settings | {"n": len(values), "standard_error": error}
        yield f"bits_per_dim/{name}", Result(float(values.mean()), settings)
