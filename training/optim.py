"""The optimisers: optax's, behind a warm-up, an optional cosine decay, and clipping of the whole gradient."""

from collections.abc import Callable

import jax.numpy as jnp
import optax


def learning_rate_schedule(peak: float, warmup: int, decay_steps: int = 0, root_from: int = 0) -> optax.Schedule:
    """Linear from 0 over `warmup` steps (step 0 has rate 0, as in DDPM), then constant, or cosine to 0.

    root_from > 0: the whole falls with the root of time from that step on (EDM2, Eq. 67).
    """
    if 0 < decay_steps <= warmup:
        raise ValueError(f"optim.decay_steps={decay_steps} ends before optim.warmup={warmup}; use 0 for no decay")
    if decay_steps and root_from:
        raise ValueError(f"optim.decay_steps={decay_steps} and optim.root_from={root_from} are two decays; use one")
    if root_from:
        rise = learning_rate_schedule(peak, warmup)
        return lambda step: rise(step) / jnp.sqrt(jnp.maximum(step / root_from, 1))
    after = optax.cosine_decay_schedule(peak, decay_steps - warmup) if decay_steps else optax.constant_schedule(peak)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup]) if warmup else after


def with_clipping(optimiser: optax.GradientTransformation, clip: float) -> optax.GradientTransformation:
    """Global-norm clipping before the optimiser; 0 leaves the gradient as it is."""
    first = optax.clip_by_global_norm(clip) if clip > 0 else optax.identity()
    return optax.chain(first, optimiser)  # a chain in any case, so that checkpoints have one layout


def each(optimisers: dict[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    """An optimiser of its own, clipping included, for each of the parts of parameters {name: part}."""
    return optax.multi_transform(optimisers, {name: name for name in optimisers})


def adam(rate, b1, b2, eps, weight_decay):
    if weight_decay:
        raise ValueError(f"optim.weight_decay={weight_decay} has no place in adam; use optim.name=adamw, or 0")
    return optax.adam(rate, b1, b2, eps)


def adamw(rate, b1, b2, eps, weight_decay):
    return optax.adamw(rate, b1, b2, eps, weight_decay=weight_decay)


def adafactor(rate, b1, b2, eps, weight_decay):
    """Second moments as rows and columns (Shazeer and Stern 2018, arXiv 1804.04235); optax's defaults, no momentum."""
    if weight_decay:
        raise ValueError(f"optim.weight_decay={weight_decay} has no place in adafactor; use optim.name=adamw, or 0")
    return optax.adafactor(rate)


OPTIMISERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adam": adam,
    "adamw": adamw,
    "adafactor": adafactor,
}
