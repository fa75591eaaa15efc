"""Noise added before a step (Karras et al. 2022, EDM, algorithm 2, lines 4 to 6)."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from diffusion.sampling import check_range, normal
from diffusion.schedules import Schedule


class Churn(NamedTuple):
    """EDM's S_churn, S_min, S_max and S_noise, levels as sigma / alpha. All may be traced."""

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = jnp.inf
    noise: float = 1.0

    def checked(self) -> "Churn":
        """Itself. Raises ValueError where a known number is negative."""
        for name, value in self._asdict().items():
            check_range(name, value, 0)
        return self

    def share(self, steps: int) -> Array:
        """gamma, by which each of `steps` steps raises the level: churn / steps, at most sqrt(2) - 1."""
        return jnp.minimum(jnp.asarray(self.churn, float) / steps, 2**0.5 - 1)

    def __call__(self, schedule: Schedule, keys: Array, x: Array, t: Array, share: Array) -> tuple[Array, Array]:
        """(x, t) at the raised level, of a table the nearest, and at t = 1 the highest; themselves without churn."""
        now = schedule.level(t)
        inside = (share > 0) & (self.churn_min <= now.ratio) & (now.ratio <= self.churn_max) & (now.alpha > 0)
        raised = jnp.maximum(schedule.time(now.logsnr - 2 * jnp.log1p(share)), t)
        if schedule.steps:
            raised = jnp.round(raised * schedule.steps) / schedule.steps
        raised = jnp.where(inside, raised, t)
        level = schedule.level(raised)
        std = self.noise * level.alpha * jnp.sqrt(jnp.maximum(level.ratio**2 - now.ratio**2, 0))
        noisier = level.alpha / now.alpha * x + std * normal(keys, x.shape[1:], x.dtype)
        return jnp.where(inside, noisier, x), raised
