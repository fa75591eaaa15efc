"""What is known of an image, as a linear map of it: y = A x0."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what turns RGB into grey in image files


class Operator(NamedTuple):
    """A linear map of images [b h w c], each for itself, and its pseudo-inverse: A A+ A = A, and A+ A symmetric.

    A+ A is the part of an image that the operator sees; any image with that part has the same y.
    """

    forward: Callable[[Array], Array]
    inverse: Callable[[Array], Array]


def masked(mask: Array) -> Operator:
    """The pixels where mask [b h w 1], of 0 and 1, is 1: inpainting, and uncropping where they are a middle."""
    return Operator(lambda x: mask * x, lambda y: mask * y)


def grey(weights: tuple[float, ...] = LUMA) -> Operator:
    """One weighted sum of the channels [b h w 1]: colour from grey."""
    w = jnp.asarray(weights)
    return Operator(
        lambda x: jnp.sum(x * w.astype(x.dtype), -1, keepdims=True), lambda y: y * (w / (w @ w)).astype(y.dtype)
    )


def averaged(factor: int) -> Operator:
    """Means of blocks of factor x factor pixels: super-resolution without a network of its own.

    Raises ValueError where the image is not made of whole blocks.
    """

    def forward(x: Array) -> Array:
        b, h, w, c = x.shape
        if h % factor or w % factor:
            raise ValueError(f"factor: blocks of {factor} do not tile an image of {h} x {w}; give a common divisor")
        return x.reshape(b, h // factor, factor, w // factor, factor, c).mean((2, 4))

    return Operator(forward, lambda y: jnp.repeat(jnp.repeat(y, factor, 1), factor, 2))


# Wang et al. 2023 (DDNM) eq. (10)
def impose(operator: Operator, x: Array, y: Array) -> Array:
    """x with its seen part replaced by y's: A of it is y, and nothing else changes.

    Of a mask to the bit: x less its own known pixels, plus those of y.
    """
    return x - operator.inverse(operator.forward(x)) + operator.inverse(y)


def adjoint(operator: Operator, x: Array, y: Array) -> Array:
    """A^T y, in the shape of the images x."""
    return jax.linear_transpose(operator.forward, x)(y)[0]


def clipped(operator: Operator, x: Array, y: Array, lift: Callable, least: Callable) -> Array:
    """x in [-1, 1] with A x = y, which clipping each number for itself would lose.

    What A sees is y's; the rest of x is made weaker until it fits, a group of numbers, those of one of y, at a time.
    lift(y) is the image in [-1, 1] that has y and no rest; least(x [b h w c]) has the least of each group in each of
    its places, or broadcasts to that.
    """
    base, rest = lift(y), x - lift(operator.forward(x))
    room = jnp.where(rest == 0, 1, (jnp.sign(rest) - base) / jnp.where(rest == 0, 1, rest))
    return base + jnp.clip(least(room), 0, 1) * rest


def clipped_grey(x: Array, y: Array) -> Array:
    """Colours x [b h w 3] in [-1, 1] with luma y [b h w 1]; the hue is x's."""
    return clipped(grey(), x, y, lambda y: jnp.repeat(y, 3, -1), lambda x: x.min(-1, keepdims=True))


def clipped_averaged(factor: int, x: Array, y: Array) -> Array:
    """Images x [b h w c] in [-1, 1] whose blocks have the means y [b h/factor w/factor c]."""
    operator = averaged(factor)

    def least(x):
        b, h, w, c = x.shape
        return operator.inverse(x.reshape(b, h // factor, factor, w // factor, factor, c).min((2, 4)))

    return clipped(operator, x, y, operator.inverse, least)
