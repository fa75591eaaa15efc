"""Ancestral sampling (DDPM algorithm 2), between any two levels."""

import jax.numpy as jnp

from diffusion.gaussian import Posterior, interpolate_log_variance, posterior
from diffusion.sampling import Sampler, check_range, noised
from diffusion.schedules import Schedule, clean_at_zero


def ancestral(schedule: Schedule, *, variance: str = "small", exponent: float = 0.0) -> Sampler:
    """x_s ~ q(x_s | x_t, x0 = its prediction), with the variance that is named.

    'small' is that posterior's own and 'large' that of q(x_t | x_s) (DDPM section 3.2); 'learned'
    lies between them where the network says (iDDPM eq. 15), 'interpolated' is small^(1 - exponent)
    large^exponent (Imagen appendix A).
    """
    if variance not in VARIANCES:
        raise ValueError(f"variance: got {variance!r}; choose one of {', '.join(VARIANCES)}")
    check_range("exponent", exponent, 0, 1)
    level = clean_at_zero(schedule).level

    def step(keys, denoise, x, memory, t, s):
        guess, q = denoise(x, t), posterior(level(t), level(s))
        mean = q.on_x0 * guess.x0 + q.on_xt * x
        return noised(keys, mean, jnp.sqrt(VARIANCES[variance](q, guess.frac, exponent)), s), memory

    return Sampler(lambda x, steps: (), step)


def _between(q: Posterior, frac):
    return jnp.exp(interpolate_log_variance(jnp.log(q.small), jnp.log(q.large), frac))


def _learned(q: Posterior, frac):
    if frac is None:
        raise ValueError("variance: 'learned' needs a network with 2c output channels; use small or large")
    return _between(q, frac)


VARIANCES = {
    "small": lambda q, frac, exponent: q.small,
    "large": lambda q, frac, exponent: q.large,
    "learned": lambda q, frac, exponent: _learned(q, frac),
    "interpolated": lambda q, frac, exponent: _between(q, exponent),
}
