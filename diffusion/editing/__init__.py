"""Uses of a trained model as wrappers of sample(): what is known of an image, or where sampling starts from.

A method holds a sampler to what is known, y = A x0, by wrapping it, its denoiser or its grid. METHODS has their
builders, (schedule, operator, y, **settings) -> Method; numbers written with a point may be traced.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from diffusion.editing.guided import covariance_guided, posterior_sampled, projected, pseudo_inverse_guided
from diffusion.editing.operators import Operator, averaged, grey, masked
from diffusion.editing.replacement import jumps, replaced, resampled
from diffusion.prediction import Denoise
from diffusion.sampling import Sampler
from diffusion.schedules import Schedule


def same(x: Any) -> Any:
    return x


class Method(NamedTuple):
    """guide wraps the denoiser before thresholding, whose derivative is 0 where it clips, and limit after it.

    derivatives: of the network, beside each call of it.
    """

    guide: Callable[[Denoise], Denoise] = same
    limit: Callable[[Denoise], Denoise] = same
    sampler: Callable[[Sampler], Sampler] = same
    grid: Callable[[np.ndarray], np.ndarray] = same
    derivatives: int = 0


def replacement(schedule: Schedule, operator: Operator, y: Array) -> Method:
    return Method(sampler=lambda sampler: replaced(sampler, schedule, operator, y))


def repaint(schedule: Schedule, operator: Operator, y: Array, *, jump: int = 10, resamplings: int = 10) -> Method:
    """replacement, with stretches of `jump` steps walked `resamplings` times. Raises ValueError as `jumps` does."""
    return Method(
        sampler=lambda sampler: resampled(replaced(sampler, schedule, operator, y), schedule),
        grid=partial(jumps, length=jump, resamplings=resamplings),
    )


def projection(schedule: Schedule, operator: Operator, y: Array) -> Method:
    return Method(limit=lambda denoise: projected(denoise, schedule, operator, y))


def pigdm(schedule: Schedule, operator: Operator, y: Array, *, variance: float = 1.0) -> Method:
    return Method(guide=lambda denoise: pseudo_inverse_guided(denoise, schedule, operator, y, variance), derivatives=1)


def covariance(schedule: Schedule, operator: Operator, y: Array, *, solves: int = 4) -> Method:
    if type(solves) is not int or solves < 1:
        raise ValueError(f"solves: got {solves}; give 1 or more")
    return Method(
        guide=lambda denoise: covariance_guided(denoise, schedule, operator, y, solves), derivatives=solves + 1
    )


def dps(schedule: Schedule, operator: Operator, y: Array, *, zeta: float = 1.0) -> Method:
    return Method(sampler=lambda sampler: posterior_sampled(sampler, operator, y, zeta), derivatives=1)


OPERATORS = {"masked": masked, "grey": grey, "averaged": averaged}

METHODS = {
    "replacement": replacement,
    "repaint": repaint,
    "projection": projection,
    "pigdm": pigdm,
    "covariance": covariance,
    "dps": dps,
}
