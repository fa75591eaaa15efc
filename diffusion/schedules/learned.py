"""A schedule trained with the network (Kingma et al. 2021, VDM, section 5.1 and appendix H)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.schedules.base import Schedule, floating, inverse, variance_preserving


class Learned(NamedTuple):
    """init(key) -> params, a dict of arrays; schedule(params) -> Schedule."""

    init: Callable[[Array], Any]
    schedule: Callable[[Any], Schedule]


def monotone(logsnr_min: float = -5.0, logsnr_max: float = 13.3, hidden: int = 1024) -> Learned:
    """logsnr falls from one learned end to the other along a learned monotone curve of t; hidden = 0: a line.

    The curve is t plus a network of one hidden layer with positive weights, scaled to run from 0 to 1. The limits
    are where the ends start. Raises ValueError unless logsnr_min < logsnr_max.
    """
    if not logsnr_min < logsnr_max:
        raise ValueError(f"logsnr_min: got {logsnr_min} with logsnr_max {logsnr_max}; give min < max")
    if type(hidden) is not int or hidden < 0:
        raise ValueError(f"hidden: got {hidden}; give a whole number, 0 for a line")

    def init(key: Array) -> dict[str, Array]:
        ends = {"top": jnp.float32(logsnr_max), "fall": jnp.float32(logsnr_max - logsnr_min)}
        if not hidden:
            return ends
        slope_key, out_key = jax.random.split(key)
        return ends | {
            "slope": jax.random.normal(slope_key, (hidden,)),
            "bias": jnp.zeros(hidden),
            "out": jax.random.normal(out_key, (hidden,)) / hidden,
        }

    def schedule(params: dict[str, Array]) -> Schedule:
        def curve(t: Array) -> Array:
            if not hidden:
                return t
            inner = jax.nn.sigmoid(jnp.abs(params["slope"]) * (2 * t[..., None] - 1) + params["bias"])
            return t + inner @ jnp.abs(params["out"])

        def logsnr_at(t: Array) -> Array:
            low, high = (curve(jnp.full((), end, t.dtype)) for end in (0, 1))
            return params["top"] - jnp.abs(params["fall"]) * (curve(t) - low) / (high - low)

        return Schedule(
            lambda t: variance_preserving(logsnr_at(floating(t))),
            lambda logsnr: inverse(logsnr_at, floating(logsnr)),
        )

    return Learned(init, schedule)
