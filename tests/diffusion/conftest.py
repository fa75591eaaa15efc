"""float64 for the laws that are held to more than float32's rounding."""

import jax
import pytest


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield
