"""The Gaussian that every diffusion shares: x_t = alpha_t x0 + sigma_t eps, and its posterior."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array


class NoiseLevel(NamedTuple):
    """The two coefficients of x_t = alpha x0 + sigma eps: [b 1 1 1] in training, [] in sampling."""

    alpha: Array
    sigma: Array

    @property
    def logsnr(self) -> Array:
        """log(alpha^2 / sigma^2); +inf on clean data, -inf on pure noise."""
        return 2 * (jnp.log(self.alpha) - jnp.log(self.sigma))

    @property
    def bounded_logsnr(self) -> Array:
        """logsnr within +-40, for what a network is fed: it stays finite where alpha or sigma is 0."""
        return jnp.clip(self.logsnr, -40, 40)

    @property
    def ratio(self) -> Array:
        """sigma / alpha, the noise beside data of unit scale: EDM's sigma, whatever the schedule."""
        return self.sigma / self.alpha


class Prediction(NamedTuple):
    """Two views of one estimate, tied by x_t = alpha x0 + sigma eps; both b h w c.

    frac is the learned variance, where a network has one: (v + 1) / 2, the place of the step's log
    variance between the posterior's (0) and the forward step's (1). A network may leave [0, 1].
    """

    x0: Array
    eps: Array
    frac: Array | None = None


class Posterior(NamedTuple):
    """q(x_s | x_t, x0) = N(on_x0 x0 + on_xt x_t, small), and large, the variance of q(x_t | x_s)."""

    on_x0: Array
    on_xt: Array
    small: Array
    large: Array


# DDPM eq. (4)
def corrupt(x0: Array, eps: Array, level: NoiseLevel) -> Array:
    """x_t ~ q(x_t | x0), given its noise."""
    return level.alpha * x0 + level.sigma * eps


def renewed(t: NoiseLevel, s: NoiseLevel) -> Array:
    """1 - SNR_t / SNR_s, in [0, 1]: the share of the noise at t that was added since the cleaner level s.

    sigma_s^2 of it is the variance of q(x_s | x_t, x0), and sigma_t^2 of it that of q(x_t | x_s).
    It is 1 where s is data (sigma_s = 0) and where t is pure noise (alpha_t = 0).
    """
    return -jnp.expm1(t.logsnr - s.logsnr)


def kept(t: NoiseLevel, s: NoiseLevel) -> Array:
    """SNR_t / SNR_s = 1 - renewed(t, s), exact where that would cancel: the share that was there at s."""
    return jnp.exp(t.logsnr - s.logsnr)


# DDPM eqs. (6), (7) for neighbours; VDM appendix A for any s < t
def posterior(t: NoiseLevel, s: NoiseLevel) -> Posterior:
    """Bayes' formula for q(x_s | x_t, x0) with s cleaner than t and sigma_t > 0.

    Every coefficient is finite at both ends: nothing is divided by sigma_s or by alpha_t.
    """
    share = renewed(t, s)
    return Posterior(
        on_x0=s.alpha * share,
        on_xt=(t.alpha / s.alpha) * (s.sigma / t.sigma) ** 2,
        small=s.sigma**2 * share,
        large=t.sigma**2 * share,
    )


# iDDPM eq. (15); Imagen appendix A writes it small^(1 - frac) large^frac
def interpolate_log_variance(log_small: Array, log_large: Array, frac: Array) -> Array:
    """The log variance that lies frac of the way from the smaller bound to the larger."""
    return frac * log_large + (1 - frac) * log_small
