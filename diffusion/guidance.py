"""Wrappers from a denoiser to a denoiser: guidance, then thresholding, on predictions.

Without guidance nothing is wrapped: it is its own program of one pass. All numbers may be traced.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.gaussian import NoiseLevel, Prediction
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


# Lin et al. 2023 section 3.4, on x0, so that it does not depend on the parameterisation
def rescale(main: Prediction, mixed: Prediction, level: NoiseLevel, share: Array) -> Prediction:
    """Takes the standard deviation of mixed's x0 `share` of the way back to main's, per example; eps follows."""
    axes = tuple(range(1, main.x0.ndim))
    wanted, found = (jnp.std(guess.x0, axes, keepdims=True) for guess in (main, mixed))
    ratio = jnp.where(found > 0, wanted / found, 1)
    return with_x0(mixed, mixed.x0 * (1 + share * (ratio - 1)), level)


def with_x0(guess: Prediction, x0: Array, level: NoiseLevel) -> Prediction:
    """The prediction with another x0, and eps such that x_t = alpha x0 + sigma eps still holds.

    Written as a correction of eps, so that the same x0 leaves the prediction as it is, bit for bit.
    """
    return guess._replace(x0=x0, eps=guess.eps + level.alpha / level.sigma * (guess.x0 - x0))


class Guidance(NamedTuple):
    """How two predictions become one: the scale w, and the share of `rescale` or None for none; both may be traced.

    channels: > 0 guides the first of them alone, and leaves main's in the rest (DiT's code: 3 of 4).
    """

    w: Array
    rescale: Array | None = None
    channels: int = 0

    def __call__(self, main: Prediction, base: Prediction, level: NoiseLevel) -> Prediction:
        if self.channels:
            base = base._replace(x0=self._kept(base.x0, main.x0), eps=self._kept(base.eps, main.eps))
        mixed = extrapolate(main, base, self.w)
        return mixed if self.rescale is None else rescale(main, mixed, level, self.rescale)

    def _kept(self, base: Array, main: Array) -> Array:
        """main's channels behind the guided ones, where there is then nothing to extrapolate."""
        return jnp.concatenate([base[..., : self.channels], main[..., self.channels :]], axis=-1)


# Karras et al. 2024 (autoguidance) where base is a weaker network of the same condition
def guide(main: Denoise, base: Denoise, schedule: Schedule, guidance: Guidance) -> Denoise:
    """Guides one denoiser by another, in two passes: for two networks. One network takes guide_pairs."""
    return lambda x, t: guidance(main(x, t), base(x, t), schedule.level(t))


def paired(cond: Cond, null: Cond) -> Cond:
    """The condition of a double batch [2b ..]: each example is followed by its null, on the same device."""

    def interleave(c: Array, n: Array) -> Array:
        return jnp.stack([c, n], axis=1).reshape(-1, *c.shape[1:])

    return jax.tree.map(interleave, cond, null)


def guide_pairs(denoise: Denoise, schedule: Schedule, guidance: Guidance) -> Denoise:
    """Guides one network in one double pass; denoise is built with paired(cond, null), t is [] or [b 1 1 1]."""

    def guided(x: Array, t: Array) -> Prediction:
        pairs = denoise(jnp.repeat(x, 2, axis=0), jnp.repeat(t, 2, axis=0) if jnp.ndim(t) else t)
        pairs = jax.tree.map(lambda p: p.reshape(-1, 2, *p.shape[1:]), pairs)
        main, base = (jax.tree.map(lambda p, i=i: p[:, i], pairs) for i in (0, 1))
        return guidance(main, base, schedule.level(t))

    return guided


# Kynkaanniemi et al. 2024, eq. (5)
def within(guided: Denoise, plain: Denoise, schedule: Schedule, low: Array, high: Array) -> Denoise:
    """guided where low < sigma / alpha <= high, and plain elsewhere; only one of the two is run. t is []."""

    def denoise(x: Array, t: Array) -> Prediction:
        ratio = schedule.level(t).ratio
        return jax.lax.cond((low < ratio) & (ratio <= high), guided, plain, x, t)

    return denoise


# Dhariwal and Nichol 2021 algorithm 2, for every sampler
def classifier_guide(
    denoise: Denoise, schedule: Schedule, log_likelihood: Callable[[Array, Array], Array], w: Array
) -> Denoise:
    """eps - w sigma grad log p(y | x_t), and x0 to match; log_likelihood(x, t) -> [b] is a classifier of noisy images.

    Where alpha = 0 the images are pure noise and x0 stays.
    """

    def guided(x: Array, t: Array) -> Prediction:
        gradient = w * jax.grad(lambda x: log_likelihood(x, t).sum())(x)
        return tilted(denoise(x, t), gradient, schedule.level(t))

    return guided


def tilted(guess: Prediction, gradient: Array, level: NoiseLevel) -> Prediction:
    """The prediction of a density times another, whose log has this gradient in x_t; x0 stays where alpha = 0."""
    on_x0 = jnp.where(level.alpha > 0, level.sigma * level.ratio, 0)
    return guess._replace(x0=guess.x0 + on_x0 * gradient, eps=guess.eps - level.sigma * gradient)


def threshold(denoise: Denoise, schedule: Schedule, limit: Callable[[Array], Array]) -> Denoise:
    """Replaces x0 by limit(x0), and eps with it."""

    def limited(x: Array, t: Array) -> Prediction:
        guess = denoise(x, t)
        return with_x0(guess, limit(guess.x0), schedule.level(t))

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
