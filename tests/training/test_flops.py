"""Operations counted off a program equal those counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from experiment import model_flops
from training import chips, flops
from training.chips import CHIPS, parse_slice

X, W = jnp.zeros((2, 6, 6, 3)), jnp.zeros((3, 3, 3, 5))


def conv(x, w, stride=1):
    return jax.lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def counted(f, *args):
    return flops.count(jax.make_jaxpr(f)(*args))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_costs_the_same_forward_and_twice_backward(stride):
    forward = 2 * 2 * (6 // stride) ** 2 * 5 * 27
    assert counted(lambda x, w: conv(x, w, stride), X, W) == forward
    both = jax.grad(lambda x, w: conv(x, w, stride).sum(), argnums=(0, 1))
    # the cotangent of a sum is constant, but its convolutions are made all the same
    assert counted(both, X, W) == 3 * forward


@pytest.mark.parametrize("side", [1, 2, 5, 6])
@pytest.mark.parametrize("stride", [1, 2])
def test_without_borders_a_convolution_counts_what_meets_a_pixel(side, stride):
    """Of ones with a kernel of ones every multiply-add gives 1. Backward both convolutions do the same ones again."""
    x, w = jnp.ones((2, side, side, 3)), jnp.ones((3, 3, 3, 5))
    once = 2 * int(conv(x, w, stride).sum())
    both = jax.grad(lambda x, w: jnp.square(conv(x, w, stride)).sum(), argnums=(0, 1))
    for f, expected in ((lambda x, w: conv(x, w, stride), once), (both, 3 * once)):
        assert flops.count(jax.make_jaxpr(f)(x, w), borders=False) == expected


def test_a_scan_counts_its_length_and_remat_what_it_repeats():
    a, b = jnp.zeros((4, 7)), jnp.zeros((7, 7))
    product = 2 * 4 * 7 * 7
    assert counted(lambda a, b: a @ b, a, b) == product
    loop = lambda a, b: jax.lax.scan(lambda x, _: (jnp.tanh(x @ b), None), a, length=10)[0].sum()  # noqa: E731
    assert counted(jax.jit(loop), a, b) == 10 * product
    assert counted(jax.grad(loop, argnums=(0, 1)), a, b) == 30 * product
    twice = lambda a, b: jnp.tanh(jnp.tanh(a @ b) @ b).sum()  # noqa: E731
    once, again = (counted(jax.grad(f, argnums=(0, 1)), a, b) for f in (twice, jax.checkpoint(twice)))
    assert once == 6 * product and again == 8 * product
    assert counted(lambda a, b: jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: a), a, b) == product


def test_the_model_flops_of_a_network_are_those_of_its_layers():
    config = digits.get_config("tiny")
    config.model.update(channels=32, multipliers=(1,), blocks=1, attention=(), groups=4, num_heads=2)
    pixels, width, embedding = 64, 32, 128

    def block(inputs):
        """Two convolutions, the embedding's projection, and a shortcut where widths differ."""
        shortcut = pixels * inputs * width * (inputs != width)
        return pixels * 9 * (inputs + width) * width + embedding * width + shortcut

    attention = pixels * 4 * width**2 + 2 * pixels**2 * width
    trunk = embedding**2 + 3 * block(width) + attention + 2 * block(2 * width) + pixels * 9 * width
    first = pixels * 9 * width + width * embedding  # conv_in and time_1: no gradient goes beyond them
    metrics = 2 * 10  # the loss and the trivial loss by ten levels
    expected = 2 * config.train.batch_size * (3 * trunk + 2 * first + metrics)
    assert model_flops(config) == expected
    config.model.remat, config.optim.accumulate = "blocks", 2
    assert model_flops(config) == expected


@pytest.mark.parametrize(
    "text, count, hosts",
    [("v5e:4x4", 16, 4), ("v5e-16", 16, 4), ("v5litepod-8", 8, 1), ("v5p-256", 128, 32), ("v4-8", 4, 1),
     ("v5e-1", 1, 1), ("v6e:2x4", 8, 1), ("h100:16", 16, 2), ("gpu", 1, 1), ("tpu7x:2x2x1", 4, 1)],
)  # fmt: skip
def test_slices_by_shape_and_by_accelerator_type(text, count, hosts):
    found = parse_slice(text)
    assert (found.chips, found.hosts) == (count, hosts)


@pytest.mark.parametrize(
    "text, message",
    {
        "v5e:3x3": "there is no such slice of v5e; 1x1, 2x2",
        "v5e-12": "there is no such slice of v5e",
        "v5p-7": "there is no such slice of v5p",
        "v5p:4x4": "three multiples of 4",
        "v9:2x2": "no chip 'v9'; choose from v4",
        "v5e:axb": "is not of the form v5e:4x4 or v5e-16",
        "v5p:x": "is not of the form v5p:4x4x4 or v5p-128",
        "h100:0": "give a number of GPUs",
    }.items(),
)
def test_a_slice_that_does_not_exist_is_refused_with_the_choices(text, message):
    with pytest.raises(ValueError, match=message):
        parse_slice(text)


def test_the_table_is_in_its_units():
    for chip in CHIPS.values():
        assert 1e14 < chip.flops < 1e16 and 8e9 < chip.memory < 1e12
        assert 1e11 < chip.interconnect < chip.bandwidth < 1e13
    assert chips.chip_of("cpu") is None and chips.chip_of("TPU v5 lite") is CHIPS["v5e"]
    kinds = [kind for chip in CHIPS.values() for kind in chip.kinds]
    assert len(kinds) == len(set(kinds)) and np.all([kind.startswith(("TPU", "NVIDIA")) for kind in kinds])
