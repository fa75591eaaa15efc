"""Floating-point operations of a program, read off its jaxpr: a scan's length times its body.

Matrix products and convolutions alone, at two operations a multiply-add; what is elementwise is not counted. This is
the numerator of MFU. What the compiler says (`cost_analysis`) counts a loop's body once and recomputed work twice.
"""

import math

import numpy as np
from jax.extend import core


def count(jaxpr, borders: bool = True) -> int:
    """Operations of a jaxpr. Loops whose length is not known count once; of branches, the dearest counts.

    borders: multiply-adds of a convolution at a border's zeros count as those inside, as is usual. Without, they do
    not count, as in a compiler's figure.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return sum(RULES.get(equation.primitive.name, inner)(equation, borders) for equation in jaxpr.eqns)


def dot(equation, borders) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def convolution(equation, borders) -> int:
    """The zeros between the pixels of a dilated image do not count."""
    kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
    out = equation.outvars[0].aval.shape
    if borders:
        taps = math.prod(kernel[axis] for axis in numbers.rhs_spec[1:])  # input features, height, width
        return 2 * math.prod(out) * taps // math.prod(equation.params["lhs_dilation"])
    features = math.prod(kernel[axis] for axis in numbers.rhs_spec[:2])
    return 2 * out[numbers.out_spec[0]] * features * math.prod(taps_inside(equation))


def taps_inside(equation):
    """Along each axis of the images, how many pairs of an output pixel and a tap of its kernel meet an input pixel."""
    image, kernel = (variable.aval.shape for variable in equation.invars)
    params, out = equation.params, equation.outvars[0].aval.shape
    numbers = params["dimension_numbers"]
    axes = zip(*(spec[2:] for spec in (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)), strict=True)
    for i, (own, taps, result) in enumerate(axes):
        apart = params["lhs_dilation"][i]
        at = np.add.outer(
            np.arange(out[result]) * params["window_strides"][i] - params["padding"][i][0],
            np.arange(kernel[taps]) * params["rhs_dilation"][i],
        )
        yield int(((at >= 0) & (at <= (image[own] - 1) * apart) & (at % apart == 0)).sum())


def scan(equation, borders) -> int:
    return equation.params["length"] * count(equation.params["jaxpr"], borders)


def branches(equation, borders) -> int:
    return max(count(branch, borders) for branch in equation.params["branches"])


def inner(equation, borders) -> int:
    """What the programs inside an equation do: of calls, remat, custom derivatives, loops of unknown length."""
    return sum(count(program, borders) for program in programs(equation.params.values()))


def programs(values):
    for value in values:
        if isinstance(value, core.Jaxpr | core.ClosedJaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from programs(value)


RULES = {"dot_general": dot, "conv_general_dilated": convolution, "scan": scan, "cond": branches}
