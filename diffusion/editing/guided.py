"""Wrappers that draw the prediction, rather than x, towards what is known: y = A x0.

Bayes' formula moves E[x0 | x_t] by C A^T (A C A^T)^-1 (y - A x0), with C the covariance of x0 given x_t. What is
assumed of C decides between them; the exact one gives the exact conditional.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.editing.operators import Operator, adjoint, impose
from diffusion.gaussian import Prediction
from diffusion.guidance import tilted, with_x0
from diffusion.prediction import Denoise
from diffusion.sampling import Sampler
from diffusion.schedules import Schedule


# Wang et al. 2023 (DDNM) algorithm 1
def projected(denoise: Denoise, schedule: Schedule, operator: Operator, y: Array) -> Denoise:
    """x0 with its seen part replaced by y's, and eps with it. A of the sample, which ends in x0, is y.

    As if C were a multiple of the identity: what is known moves nothing else at this level.
    """

    def known(x: Array, t: Array) -> Prediction:
        guess = denoise(x, t)
        return with_x0(guess, impose(operator, guess.x0, y), schedule.level(t))

    return known


# Song et al. 2023 (PiGDM) eqs. (7), (8), without noise in y
def pseudo_inverse_guided(
    denoise: Denoise, schedule: Schedule, operator: Operator, y: Array, variance: Array = 1.0
) -> Denoise:
    """eps - sigma grad log p(y | x_t), as if C were r^2 I, r^2 that of independent pixels of this variance.

    One backward pass. The gradient goes through the network, so that what is known moves the rest. (The paper's
    algorithm weighs the gradient anew; this is its score.)
    """

    def guided(x: Array, t: Array) -> Prediction:
        level = schedule.level(t)
        x0, pull, guess = jax.vjp(lambda x: _x0_of(denoise(x, t)), x, has_aux=True)
        r2 = variance * level.sigma**2 / (level.alpha**2 * variance + level.sigma**2)
        (gradient,) = pull(operator.inverse(y - operator.forward(x0)) / r2)
        return tilted(guess, gradient, level)

    return guided


# Boys et al. 2023 (TMPD): C is sigma^2 / alpha times the denoiser's Jacobian J, by Tweedie's second formula
def covariance_guided(denoise: Denoise, schedule: Schedule, operator: Operator, y: Array, solves: int = 4) -> Denoise:
    """As above with the C that the denoiser implies: exact where x0 given x_t is Gaussian.

    (A J A^T) u = y - A x0 by `solves` steps of conjugate gradients, each a forward derivative of the network, and
    one more for x0 + J A^T u. With as many steps as y has independent numbers, A of the prediction is y.
    """

    def guided(x: Array, t: Array) -> Prediction:
        x0, push, guess = jax.linearize(lambda x: _x0_of(denoise(x, t)), x, has_aux=True)

        def move(u: Array) -> Array:
            return push(adjoint(operator, x, u))

        u = conjugate_gradients(lambda u: operator.forward(move(u)), y - operator.forward(x0), solves)
        return with_x0(guess, x0 + move(u), schedule.level(t))

    return guided


def _x0_of(guess: Prediction) -> tuple[Array, Prediction]:
    return guess.x0, guess


def conjugate_gradients(matrix: Callable[[Array], Array], b: Array, steps: int) -> Array:
    """An approximate u [b ..] with matrix(u) = b, each example for itself.

    One stops where the curvature is not positive: at pure noise, and as a network's Jacobian is not quite symmetric.
    """

    def ratio(a: Array, b: Array) -> Array:
        return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)

    def body(_, carry):
        u, residual, direction = carry
        image = matrix(direction)
        length = ratio(_dot(residual, residual), _dot(direction, image))
        after = residual - length * image
        share = jnp.where(length > 0, ratio(_dot(after, after), _dot(residual, residual)), 0)
        return u + length * direction, after, jnp.where(length > 0, after + share * direction, 0)

    return jax.lax.fori_loop(0, steps, body, (jnp.zeros_like(b), b, b))[0]


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)


# Chung et al. 2023 (DPS) algorithm 1
def posterior_sampled(sampler: Sampler, operator: Operator, y: Array, zeta: Array = 1.0) -> Sampler:
    """x_s less zeta times the gradient in x_t of |y - A x0|, each example's.

    One backward pass. A step of that length at every step: what it makes depends on their number (the paper's 1000).
    """

    def step(keys, denoise, x, memory, t, s):
        def distance(x: Array) -> Array:
            missed = y - operator.forward(denoise(x, t).x0)
            squared = _dot(missed, missed)
            return jnp.sum(jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0))  # no NaN at 0

        gradient = jax.grad(distance)(x)
        x, memory = sampler.step(keys, denoise, x, memory, t, s)
        return x - zeta * gradient, memory

    return Sampler(sampler.init, step, sampler.calls)
