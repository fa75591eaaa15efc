"""What is minimised: the space of the prediction and the space where its error counts are independent.

At a fixed x_t an error d of x0 is an error d det / sigma of the output on a line with determinant det, so that the
squared errors of all kinds are one number in different units. A weighting is (level, rate) -> sigma^2 times the
weight on the squared error of x0: alpha^2 is uniform in eps, sigma^2 in x0, both bounded at either end of the
schedule. rate = -d logsnr / dt is for weights that are densities over logsnr. Divided by det^2 a weighting weighs
the output's own error.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.gaussian import NoiseLevel, corrupt
from diffusion.likelihood import data_term, prior_term, variational_term
from diffusion.prediction import LINES, Line, Parameterisation, decode, determinant, edm_line, split_variance, target
from diffusion.schedules import Schedule, rate

Weighting = Callable[[NoiseLevel, Array], Array]
Loss = Callable[[Array, Array, Array, Array], Array]  # (out, x0, eps, t [b 1 1 1]) -> [b]


def uniform(line: Line) -> Weighting:
    """Every level counts the same in the space of the line."""
    return lambda level, rate: determinant(line, level) ** 2


# Salimans and Ho 2022, section 4
def truncated_snr() -> Weighting:
    """max(SNR, 1) on the squared error of x0."""
    return lambda level, rate: jnp.maximum(level.alpha**2, level.sigma**2)


# Hang et al. 2023, section 3.4
def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) on the squared error of x0: simple at high noise, clamped where SNR > gamma."""
    _positive("gamma", gamma)
    return lambda level, rate: jnp.minimum(level.alpha**2, gamma * level.sigma**2)


# Crowson et al. 2024 (HDiT) section 4.2, for gamma = 4
def soft_min_snr(gamma: float = 4.0) -> Weighting:
    """SNR gamma / (SNR + gamma) on the squared error of x0: min_snr without its corner."""
    _positive("gamma", gamma)
    return lambda level, rate: gamma * level.alpha**2 * level.sigma**2 / (level.alpha**2 + gamma * level.sigma**2)


# Choi et al. 2022 (P2) eq. (8)
def p2(gamma: float = 1.0, k: float = 1.0) -> Weighting:
    """1 / (k + SNR)^gamma on the squared error of eps."""
    _positive("k", k)
    return lambda level, rate: level.alpha**2 * (level.sigma**2 / (k * level.sigma**2 + level.alpha**2)) ** gamma


# Kingma and Gao 2023; Hoogeboom et al. 2024 (SiD2) section 3
def sigmoid(bias: float = 2.0) -> Weighting:
    """rate sigmoid(bias - logsnr) on the squared error of eps: the bound's weight where noisier than the bias."""

    def weighting(level: NoiseLevel, rate: Array) -> Array:
        share = level.sigma**2 / (level.sigma**2 + math.exp(-bias) * level.alpha**2)
        return rate * share * level.alpha**2

    return weighting


# Kingma et al. 2021 (VDM) eq. (17)
def elbo() -> Weighting:
    """rate / 2 on the squared error of eps: the variational bound's own, in nats."""
    return lambda level, rate: rate * level.alpha**2 / 2


# Karras et al. 2022 (EDM) table 1
def edm(sigma_data: float = 0.5) -> Weighting:
    """Uniform in the output of EDM's preconditioned network: (r^2 + sigma_data^2) / (r sigma_data)^2 on x0."""
    _positive("sigma_data", sigma_data)
    return uniform(edm_line(sigma_data))


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name}: got {value}; give a positive number")


def weighted(schedule: Schedule, parameterisation: Parameterisation, weighting: Weighting) -> Loss:
    """The weighted squared error, mean over pixels: DDPM eq. (14) where the weighting is simple."""

    def loss(out: Array, x0: Array, eps: Array, t: Array) -> Array:
        if out.shape != x0.shape:
            raise ValueError(f"loss: got an output {out.shape} for images {x0.shape}; make them equal, or use hybrid")
        level = schedule.level(t)
        error = out - target(parameterisation, x0, eps, level)
        weight = weighting(level, rate(schedule, t)) / determinant(parameterisation.line, level) ** 2
        return jnp.mean(weight * error**2, axis=tuple(range(1, x0.ndim)))

    return loss


# iDDPM eq. (16), with its lambda = 1/1000 of the bound's T terms
def hybrid(schedule: Schedule, parameterisation: Parameterisation, weighting: Weighting, rescale: bool = True) -> Loss:
    """The weighted loss plus T / 1000 times the bound's term in bits, which trains the variance alone.

    rescale: without, plus the bound's term itself (rescale_learned_sigmas=False in iDDPM's and ADM's code).

    Raises ValueError for a continuous schedule, and for a network that does not learn its variance.
    """
    bound = _bound(schedule, parameterisation, "hybrid", jax.lax.stop_gradient)
    mean_loss = weighted(schedule, parameterisation, weighting)
    share = schedule.steps / 1000 if rescale else 1

    def loss(out: Array, x0: Array, eps: Array, t: Array) -> Array:
        mean = out[..., : x0.shape[-1]]
        return mean_loss(mean, x0, eps, t) + share * bound(out, x0, eps, t)

    return loss


# iDDPM's rescaled L_vlb
def variational(schedule: Schedule, parameterisation: Parameterisation, weighting: Weighting) -> Loss:
    """T times the bound's term: its mean over t is the bound in bits/dim, but for the prior's share.

    The weighting is not used. Raises ValueError as hybrid does.
    """
    bound = _bound(schedule, parameterisation, "variational", lambda mean: mean)
    return lambda out, x0, eps, t: schedule.steps * bound(out, x0, eps, t)


def _bound(schedule: Schedule, parameterisation: Parameterisation, name: str, through: Callable) -> Loss:
    """The bound's term at t with the network's variance; `through` the mean its gradient goes or does not."""
    if schedule.steps is None:
        raise ValueError(f"loss: {name} needs a discrete schedule, and this one is continuous; use weighted or vdm")

    def loss(out: Array, x0: Array, eps: Array, t: Array) -> Array:
        level = schedule.level(t)
        x_t = corrupt(x0, eps, level)
        mean, frac = split_variance(out, x0.shape[-1])
        if frac is None:
            raise ValueError(
                f"loss: {name} learns the variance, and the network has {out.shape[-1]} output channels; "
                f"give it {2 * out.shape[-1]}, or use weighted"
            )
        guess = decode(parameterisation, through(mean), x_t, level)._replace(frac=frac)
        return variational_term(schedule, guess, x0, x_t, t)

    return loss


# Kingma et al. 2021 (VDM) eqs. (11), (17)
def vdm(schedule: Schedule, parameterisation: Parameterisation, weighting: Weighting) -> Loss:
    """The variational bound in continuous time, in bits/dim: its mean over uniform t is the bound itself.

    Prior, data and diffusion terms; the data term takes its noise from eps. The weighting is not used. A learned
    schedule is trained by its gradient. Raises ValueError for a discrete schedule.
    """
    if schedule.steps:
        raise ValueError("loss: vdm needs a continuous schedule, and this one is discrete; use variational")
    diffusion = weighted(schedule, parameterisation, elbo())

    def loss(out: Array, x0: Array, eps: Array, t: Array) -> Array:
        first, last = (schedule.level(jnp.full_like(t, end)) for end in (0, 1))
        return diffusion(out, x0, eps, t) / math.log(2) + data_term(x0, eps, first) + prior_term(x0, last, last.sigma)

    return loss


# Karras et al. 2024 (EDM2) eq. (14)
def uncertain(loss: Loss, log_variance: Callable[[Array], Array]) -> Loss:
    """loss / exp(u) + u, with u = log_variance(t) [b] learned: every level comes to count the same."""

    def weighed(out: Array, x0: Array, eps: Array, t: Array) -> Array:
        u = log_variance(t)
        return loss(out, x0, eps, t) / jnp.exp(u) + u

    return weighed


def trivial(weighting: Weighting, level: NoiseLevel, rate: Array, variance: float) -> Array:
    """The loss of the best linear denoiser of zero-mean data of this variance per pixel: is mine normal?

    Its squared error of x0 is variance sigma^2 / (alpha^2 variance + sigma^2). Shaped like level.
    """
    return weighting(level, rate) * variance / (level.alpha**2 * variance + level.sigma**2)


WEIGHTINGS = {
    "simple": partial(uniform, LINES["eps"]),
    "snr": partial(uniform, LINES["eps"]),  # SNR on x0 is 1 on eps
    "uniform_x0": partial(uniform, LINES["x0"]),
    "uniform_v": partial(uniform, LINES["v"]),
    "uniform_flow": partial(uniform, LINES["flow"]),
    "truncated_snr": truncated_snr,
    "min_snr": min_snr,
    "soft_min_snr": soft_min_snr,
    "p2": p2,
    "sigmoid": sigmoid,
    "elbo": elbo,
    "edm": edm,
}
LOSSES = {"weighted": weighted, "hybrid": hybrid, "variational": variational, "vdm": vdm}
LEARNS_VARIANCE = {"hybrid", "variational"}
