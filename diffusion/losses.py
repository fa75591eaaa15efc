"""What is minimised: the space of the prediction and the space where its error counts are independent.

At a fixed x_t an error d of x0 is an error d det / sigma of the output on a line with determinant
det, so that the squared errors of all kinds are one number in different units. A weighting is
level -> sigma^2 times the weight on the squared error of x0: alpha^2 is uniform in eps, sigma^2 in
x0, both bounded at either end of the schedule. Divided by det^2 it weighs the output's own error.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.gaussian import NoiseLevel, corrupt
from diffusion.likelihood import variational_term
from diffusion.prediction import LINES, Line, Parameterisation, decode, determinant, split_variance, target
from diffusion.schedules import Schedule

Weighting = Callable[[NoiseLevel], Array]
Loss = Callable[[Array, Array, Array, Array], Array]  # (out, x0, eps, t [b 1 1 1]) -> [b]


def uniform(line: Line) -> Weighting:
    """Every level counts the same in the space of the line."""
    return lambda level: determinant(line, level) ** 2


# Hang et al. 2023, section 3.4
def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) on the squared error of x0: simple at high noise, clamped where SNR > gamma."""
    return lambda level: jnp.minimum(level.alpha**2, gamma * level.sigma**2)


def weighted(schedule: Schedule, parameterisation: Parameterisation, weighting: Weighting) -> Loss:
    """The weighted squared error, mean over pixels: DDPM eq. (14) where the weighting is simple."""

    def loss(out: Array, x0: Array, eps: Array, t: Array) -> Array:
        if out.shape != x0.shape:
            raise ValueError(f"loss: got an output {out.shape} for images {x0.shape}; make them equal, or use hybrid")
        level = schedule.level(t)
        error = out - target(parameterisation, x0, eps, level)
        weight = weighting(level) / determinant(parameterisation.line, level) ** 2
        return jnp.mean(weight * error**2, axis=tuple(range(1, x0.ndim)))

    return loss


# iDDPM eq. (16), with its lambda = 1/1000 of the bound's T terms
def hybrid(schedule: Schedule, parameterisation: Parameterisation, weighting: Weighting) -> Loss:
    """The weighted loss plus T / 1000 times the bound's term in bits, which trains the variance alone.

    Raises ValueError for a continuous schedule, and for a network that does not learn its variance.
    """
    if schedule.steps is None:
        raise ValueError("loss: hybrid needs a discrete schedule, and this one is continuous; use weighted")
    mean_loss = weighted(schedule, parameterisation, weighting)

    def loss(out: Array, x0: Array, eps: Array, t: Array) -> Array:
        level = schedule.level(t)
        x_t = corrupt(x0, eps, level)
        mean, frac = split_variance(out, x0.shape[-1])
        if frac is None:
            raise ValueError(
                f"loss: hybrid learns the variance, and the network has {out.shape[-1]} output channels; "
                f"give it {2 * out.shape[-1]}, or use weighted"
            )
        guess = decode(parameterisation, jax.lax.stop_gradient(mean), x_t, level)._replace(frac=frac)
        bound = variational_term(schedule, guess, x0, x_t, t)
        return mean_loss(mean, x0, eps, t) + schedule.steps / 1000 * bound

    return loss


def trivial(weighting: Weighting, level: NoiseLevel, variance: float) -> Array:
    """The loss of the best linear denoiser of zero-mean data of this variance per pixel: is mine normal?

    Its squared error of x0 is variance sigma^2 / (alpha^2 variance + sigma^2). Shaped like level.
    """
    return weighting(level) * variance / (level.alpha**2 * variance + level.sigma**2)


WEIGHTINGS = {
    "simple": partial(uniform, LINES["eps"]),
    "uniform_x0": partial(uniform, LINES["x0"]),
    "uniform_v": partial(uniform, LINES["v"]),
    "min_snr": min_snr,
}
LOSSES = {"weighted": weighted, "hybrid": hybrid}
