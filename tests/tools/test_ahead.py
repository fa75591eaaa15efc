"""A TPU's compiler on a reduced network: its arithmetic is the model's, and its memory traffic does not rise."""

import pytest

from configs import cifar10
from experiment import model_flops
from tools import ahead
from training.chips import parse_slice

# Bytes a step by the versions that compiled it; a new compiler gets a line, from the value that the failure shows.
BYTES = {("0.10.2", "0.0.42.1"): 848_081_408}


def reduced():
    config = cifar10.get_config()
    config.data.shape = (8, 8, 3)
    config.model.update(multipliers=(1,), blocks=1, attention=(), dtype="bfloat16")
    return config


def test_a_compiled_step_moves_no_more_bytes_than_it_did(tmp_path):
    pytest.importorskip("libtpu", reason="libtpu compiles for TPUs: pip install 'jax[tpu]'")
    facts = ahead.compiled(reduced(), parse_slice("v5e:1x1"), 300.0, str(tmp_path))
    # Taps on a border's zeros, a sixth of those of 8 x 8 images, are not counted there; nothing is done twice.
    assert 0.8 < facts["compiler_flops"] / model_flops(reduced()) <= 1
    known = BYTES.get((facts["versions"]["jax"], facts["versions"]["libtpu"]))
    if known is None:
        pytest.skip(f"{facts['bytes_accessed']:.0f} bytes under {facts['versions']}, of which no value is kept")
    assert facts["bytes_accessed"] <= 1.02 * known
