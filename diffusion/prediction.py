"""From a network's output to a prediction: every kind of output is a line in the (x0, eps) plane.

out = a x0 + b eps, with (a, b) a function of the level. With x_t = alpha x0 + sigma eps that is two
equations in two unknowns, so that one 2x2 solve decodes every kind.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.gaussian import NoiseLevel, Prediction
from diffusion.schedules import Schedule

Cond = dict[str, Array]
# (x b h w c, noise_input [b], cond) -> out b h w c, or 2c where the variance is learned; parameters bound
Network = Callable[[Array, Array, Cond], Array]
Denoise = Callable[[Array, Array], Prediction]  # (x, t) -> Prediction
Line = Callable[[NoiseLevel], tuple[Array, Array]]


class Parameterisation(NamedTuple):
    """What a network means by its output, and what it is fed.

    line(level) -> (a, b); scale_input(level) -> the factor on x_t; noise_input(t, level) -> the
    number that tells the network its noise, shaped like t.
    """

    line: Line
    scale_input: Callable[[NoiseLevel], Array]
    noise_input: Callable[[Array, NoiseLevel], Array]


LINES = {
    "eps": lambda level: (0.0, 1.0),  # DDPM eq. (11)
    "x0": lambda level: (1.0, 0.0),
    "v": lambda level: (-level.sigma, level.alpha),  # Salimans and Ho 2022, appendix D
    "flow": lambda level: (-1.0, 1.0),  # eps - x0, rectified flow's velocity
    "score": lambda level: (0.0, -1 / level.sigma),  # the gradient of log p(x_t)
}


# Karras et al. 2022 (EDM) table 1, in x_t = alpha x0 + sigma eps
def edm_line(sigma_data: float) -> Line:
    """What is left of x0 once c_skip x_t is taken off, at unit variance: data of this standard deviation."""

    def line(level: NoiseLevel) -> tuple[Array, Array]:
        r = _edm_scale(level, sigma_data)
        return level.sigma / (sigma_data * r), -level.alpha * sigma_data / r

    return line


def _edm_scale(level: NoiseLevel, sigma_data: float) -> Array:
    return jnp.sqrt(level.sigma**2 + (level.alpha * sigma_data) ** 2)


def determinant(line: Line, level: NoiseLevel) -> Array:
    """alpha b - sigma a: zero where out and x_t say the same, so that no prediction follows from them."""
    a, b = line(level)
    return level.alpha * b - level.sigma * a


def target(parameterisation: Parameterisation, x0: Array, eps: Array, level: NoiseLevel) -> Array:
    """What the network should have said: a x0 + b eps."""
    a, b = parameterisation.line(level)
    return a * x0 + b * eps


def decode(parameterisation: Parameterisation, out: Array, x_t: Array, level: NoiseLevel) -> Prediction:
    """Solves out = a x0 + b eps, x_t = alpha x0 + sigma eps for (x0, eps)."""
    a, b = parameterisation.line(level)
    det = determinant(parameterisation.line, level)
    return Prediction(x0=(b * x_t - level.sigma * out) / det, eps=(level.alpha * out - a * x_t) / det)


def split_variance(out: Array, channels: int) -> tuple[Array, Array | None]:
    """(out, frac) of a network with 2c output channels (iDDPM section 3.1), (out, None) of one with c."""
    if out.shape[-1] == channels:
        return out, None
    if out.shape[-1] != 2 * channels:
        raise ValueError(
            f"network output: got {out.shape[-1]} channels for images of {channels}; "
            f"give {channels}, or {2 * channels} to learn the variance"
        )
    out, v = jnp.split(out, 2, axis=-1)
    return out, (v + 1) / 2


def inputs(parameterisation: Parameterisation, x_t: Array, t: Array, level: NoiseLevel) -> tuple[Array, Array]:
    """What the network is fed, in training and in sampling: (scaled x_t, noise_input [b])."""
    noise_input = jnp.ravel(parameterisation.noise_input(t, level))
    return parameterisation.scale_input(level) * x_t, jnp.broadcast_to(noise_input, x_t.shape[:1])


def denoiser(network: Network, cond: Cond, schedule: Schedule, parameterisation: Parameterisation) -> Denoise:
    """The one place where a network becomes a prediction. t is [] or [b 1 1 1], and sigma(t) > 0."""

    def denoise(x: Array, t: Array) -> Prediction:
        level = schedule.level(t)
        out = network(*inputs(parameterisation, x, t, level), cond)
        out, frac = split_variance(out, x.shape[-1])
        return decode(parameterisation, out, x, level)._replace(frac=frac)

    return denoise


def time_input(schedule: Schedule, rescale: bool = False) -> Callable[[Array, NoiseLevel], Array]:
    """What DDPM's networks are fed: a table's index 0 .. T - 1 as a float; 1000 t where t is continuous.

    rescale: 1000 / T times the index (iDDPM's rescale_timesteps).
    """
    if schedule.steps is None:
        return lambda t, level: 1000 * t
    scale = 1000 / schedule.steps if rescale else 1
    return lambda t, level: scale * (jnp.round(t * schedule.steps) - 1)


def on_line(name: str, schedule: Schedule, rescale: bool = False) -> Parameterisation:
    """The parameterisation of LINES[name], fed x_t as it is and time_input.

    Raises ValueError where it is singular at t = 1: eps says nothing of x0 where alpha(1) = 0.
    """
    with jax.ensure_compile_time_eval():
        level = schedule.level(jnp.ones(()))
        singular = abs(determinant(LINES[name], level)) < jnp.finfo(jnp.float32).eps
    if singular:
        raise ValueError(
            f"parameterisation: {name} is singular at t = 1, where alpha = {float(level.alpha):.2g} "
            f"and sigma = {float(level.sigma):.2g}; choose v or x0"
        )
    return Parameterisation(LINES[name], lambda level: 1.0, time_input(schedule, rescale))


# Karras et al. 2022 (EDM) table 1
def edm(schedule: Schedule, sigma_data: float = 0.5) -> Parameterisation:
    """The preconditioned network: fed x_t at unit variance, and log(sigma / alpha) / 4. Never singular."""
    if not sigma_data > 0:
        raise ValueError(f"sigma_data: got {sigma_data}; give the data's standard deviation")
    return Parameterisation(
        line=edm_line(sigma_data),
        scale_input=lambda level: 1 / _edm_scale(level, sigma_data),
        noise_input=lambda t, level: -level.bounded_logsnr / 8,
    )


def range_input(schedule: Schedule) -> Callable[[Array, NoiseLevel], Array]:
    """1000 times the share of the schedule's logsnr range that lies above the level (VDM): for learned schedules.

    The network then sees the level itself, and the schedule is free to move in t.
    """

    def noise_input(t: Array, level: NoiseLevel) -> Array:
        top, bottom = (schedule.level(jnp.full((), end, jnp.float32)).logsnr for end in (0, 1))
        return 1000 * (top - level.logsnr) / (top - bottom)

    return noise_input


PARAMETERISATIONS = {name: partial(on_line, name) for name in LINES} | {"edm": edm}
