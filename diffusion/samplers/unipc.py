"""UniPC: a predictor and, without a further network call, a corrector (Zhao et al. 2023)."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from diffusion.samplers.exponential import half_logsnr, phi
from diffusion.sampling import Sampler
from diffusion.schedules import Schedule, clean_at_zero


# Zhao et al. 2023, algorithms 5 to 8, with x0 predicted and B(h) = exp(h) - 1 (their B2)
def unipc(schedule: Schedule, *, order: int = 2) -> Sampler:
    """Deterministic, one network call a step: the prediction at t also corrects the step that led to t.

    `order` is the predictor's, and the corrector's is one more; both rise to it over the first steps. The last
    step, to data, is the x0 prediction. Raises ValueError unless order is 1, 2 or 3.
    """
    if type(order) is not int or order not in (1, 2, 3):
        raise ValueError(f"order: got {order}; choose 1, 2 or 3")
    level = clean_at_zero(schedule).level

    def init(x, steps):
        nowhere = jnp.zeros_like(x), jnp.full((), jnp.inf, x.dtype)
        return x, jnp.ones((), x.dtype), (nowhere,) * order, jnp.int32(0)

    def step(keys, denoise, x, memory, t, s):
        start, sigma, points, taken = memory
        noisy, clean, x0 = level(t), level(s), denoise(x, t).x0
        corrected = _advance(start, sigma, points, noisy, _slope(noisy, points, taken - 1, x0))
        x = jnp.where(taken > 0, corrected, x)
        points = ((x0, half_logsnr(noisy)), *points[:-1])
        ahead = _advance(x, noisy.sigma, points, clean, _slope(clean, points, taken))
        return jnp.where(s > 0, ahead, x0), (x, noisy.sigma, points, taken + 1)

    return Sampler(init, step)


def _advance(x, sigma, points, to, slope):
    """From x at the newest point, whose prediction and lambda stand first in points, to another level."""
    x0, start = points[0]
    return to.sigma / sigma * x - to.alpha * jnp.expm1(start - half_logsnr(to)) * (x0 + slope)


def _slope(to, points, available, new=None):
    """What the `available` older predictions, and the new one at `to`, add to the newest one's."""
    (x0, start), *older = points
    h = half_logsnr(to) - start
    nodes = [(where - start) / h for _, where in older]
    differences = [(other - x0) / node for (other, _), node in zip(older, nodes)]
    end = [] if new is None else [1.0]
    choices = []
    for used in range(len(older) + 1):
        rho = _weights(nodes[:used] + end, -h)
        choices.append([*rho[:used], *[0.0] * (len(older) - used), *rho[used:]])
    if not choices[-1]:
        return jnp.zeros_like(x0)
    rho = jnp.array(choices)[jnp.clip(available, 0, len(older))]
    return sum(r * d for r, d in zip(rho, differences if new is None else [*differences, new - x0], strict=True))


def _weights(nodes: Sequence[Array], z: Array) -> list[Array]:
    """rho with sum_j rho_j nodes_j^(i - 1) = i! phi_{i+1}(z) / phi_1(z) for i = 1 .. n, by Lagrange's polynomials.

    For a single node the paper takes 1/2, its limit as z goes to 0.
    """
    if len(nodes) < 2:
        return [0.5] * len(nodes)
    b = [math.factorial(i) * phi(i + 1, z) / phi(1, z) for i in (1, 2, 3)]
    rho = []
    for j, node in enumerate(nodes):
        other = [*nodes[:j], *nodes[j + 1 :]]
        if len(other) == 1:
            top = b[1] - other[0] * b[0]
        else:
            top = b[2] - (other[0] + other[1]) * b[1] + other[0] * other[1] * b[0]
        rho.append(top / math.prod(node - o for o in other))
    return rho
