"""Floating-point operations of a program, read off its jaxpr: a scan's length times its body.

Matrix products and convolutions alone, at two operations a multiply-add; what is elementwise is not counted. This is
the numerator of MFU. What the compiler says (`cost_analysis`) counts a loop's body once and recomputed work twice.
"""

import math

from jax.extend import core


def count(jaxpr) -> int:
    """Operations of a jaxpr. Loops whose length is not known count once; of branches, the dearest counts."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return sum(RULES.get(equation.primitive.name, inner)(equation) for equation in jaxpr.eqns)


def dot(equation) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def convolution(equation) -> int:
    """Multiply-adds at a border count as inside; the zeros between the pixels of a dilated image do not count."""
    kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
    taps = math.prod(kernel[axis] for axis in numbers.rhs_spec[1:])  # input features, height, width
    real = math.prod(equation.params["lhs_dilation"])
    return 2 * math.prod(equation.outvars[0].aval.shape) * taps // real


def scan(equation) -> int:
    return equation.params["length"] * count(equation.params["jaxpr"])


def branches(equation) -> int:
    return max(map(count, equation.params["branches"]))


def inner(equation) -> int:
    """What the programs inside an equation do: of calls, remat, custom derivatives, loops of unknown length."""
    return sum(map(count, programs(equation.params.values())))


def programs(values):
    for value in values:
        if isinstance(value, core.Jaxpr | core.ClosedJaxpr):
            yield value
        elif isinstance(value, tuple | list):
            yield from programs(value)


RULES = {"dot_general": dot, "conv_general_dilated": convolution, "scan": scan, "cond": branches}
