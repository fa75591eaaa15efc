import jax
import numpy as np
import pytest

QUICK = {"xla_backend_optimization_level": 0}  # the time is the compiler's


@pytest.fixture
def draw():
    """(module, *args) -> parameters drawn away from the initial zeros and ones, so that every term shows."""

    def parameters(module, *args):
        rng = np.random.default_rng(7)

        def leaf(a):
            return (rng.normal(size=a.shape) / np.prod(a.shape[:-1]) ** 0.5).astype(np.float32)

        return jax.tree.map(leaf, jax.eval_shape(module.init, jax.random.key(0), *args)["params"])

    return parameters


@pytest.fixture
def run(draw):
    """(module, *args) -> (drawn parameters, output)."""

    def outputs(module, *args):
        params = draw(module, *args)
        apply = jax.jit(module.apply, compiler_options=QUICK)
        return params, apply({"params": params}, *args)

    return outputs
