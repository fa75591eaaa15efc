"""Wrappers from a denoiser to a denoiser: guidance, then thresholding, on predictions.

Without guidance nothing is wrapped: it is its own program of one pass. The scale w, the quantile
and the bound may be traced.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.gaussian import Prediction
from diffusion.prediction import Cond, Denoise
from diffusion.schedules import Schedule


# Ho and Salimans 2022 eq. (6), with Imagen's w: 1 is no guidance
def extrapolate(main: Prediction, base: Prediction, w: Array) -> Prediction:
    """base + w (main - base), in x0 and eps alike; frac is main's.

    w = 1 is main and w = 0 is base, bit for bit, by selection: floating point does not give it.
    """

    def mix(main: Array, base: Array) -> Array:
        return jnp.where(w == 1, main, jnp.where(w == 0, base, base + w * (main - base)))

    return Prediction(mix(main.x0, base.x0), mix(main.eps, base.eps), main.frac)


def guide(main: Denoise, base: Denoise, w: Array) -> Denoise:
    """Guides one denoiser by another, in two passes: for two networks. One network takes guide_pairs."""
    return lambda x, t: extrapolate(main(x, t), base(x, t), w)


def paired(cond: Cond, null: Cond) -> Cond:
    """The condition of a double batch [2b ..]: each example is followed by its null, on the same device."""

    def interleave(c: Array, n: Array) -> Array:
        return jnp.stack([c, n], axis=1).reshape(-1, *c.shape[1:])

    return jax.tree.map(interleave, cond, null)


def guide_pairs(denoise: Denoise, w: Array) -> Denoise:
    """Guides one network in one double pass; denoise is built with paired(cond, null), t is []."""

    def guided(x: Array, t: Array) -> Prediction:
        pairs = denoise(jnp.repeat(x, 2, axis=0), t)
        pairs = jax.tree.map(lambda p: p.reshape(-1, 2, *p.shape[1:]), pairs)
        main, base = (jax.tree.map(lambda p, i=i: p[:, i], pairs) for i in (0, 1))
        return extrapolate(main, base, w)

    return guided


def threshold(denoise: Denoise, schedule: Schedule, limit: Callable[[Array], Array]) -> Denoise:
    """Replaces x0 by limit(x0), and eps so that x_t = alpha x0 + sigma eps still holds.

    Written as a correction of eps, so that an x0 within the limit leaves the prediction as it is,
    bit for bit.
    """

    def limited(x: Array, t: Array) -> Prediction:
        guess, level = denoise(x, t), schedule.level(t)
        x0 = limit(guess.x0)
        return guess._replace(x0=x0, eps=guess.eps + level.alpha / level.sigma * (guess.x0 - x0))

    return limited


def static_threshold(denoise: Denoise, schedule: Schedule, bound: float = 1.0) -> Denoise:
    """Clips x0 to [-bound, bound]. Raises ValueError where bound is known and not positive."""
    if not isinstance(bound, jax.core.Tracer) and not bound > 0:
        raise ValueError(f"bound: got {bound}; give a positive number, 1 for images in [-1, 1]")
    return threshold(denoise, schedule, lambda x0: jnp.clip(x0, -bound, bound))


# Imagen section 2.3
def dynamic_threshold(denoise: Denoise, schedule: Schedule, quantile: Array = 0.995) -> Denoise:
    """Clips x0 to [-s, s] and divides by s, per example; s = max(1, quantile of |x0|), quantile in [0, 1].

    Raises ValueError where the quantile is known and outside [0, 1].
    """
    if not isinstance(quantile, jax.core.Tracer) and not 0 <= quantile <= 1:
        raise ValueError(f"quantile: got {quantile}; give a share in [0, 1], as 0.995, not a percentage")

    def limit(x0: Array) -> Array:
        size = jnp.abs(x0).astype(jnp.promote_types(x0.dtype, jnp.float32))
        s = jnp.quantile(size, quantile, axis=tuple(range(1, x0.ndim)), keepdims=True)
        s = jnp.maximum(s, 1).astype(x0.dtype)
        return jnp.clip(x0, -s, s) / s

    return threshold(denoise, schedule, limit)


THRESHOLDS = {"static": static_threshold, "dynamic": dynamic_threshold}
