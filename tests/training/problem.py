"""A training problem that compiles in a moment: one matrix, noise from the examples' keys."""

import jax
import jax.numpy as jnp
import numpy as np

from training import ema, optim
from training.state import new_state
from training.step import Objective, Update, make_train_step


def init(key):
    return {"w": jax.random.normal(key, (3, 2))}


def losses(params, frozen, memory, keys, batch, dropout_key):
    """Linear regression with noisy inputs: sensitive to every example's key."""
    noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys)
    error = (batch["x"] + noise) @ params["w"] - batch["y"]
    losses = jnp.mean(error**2, axis=1)
    return losses, {"largest": (losses.max(), jnp.int32(1))}, {}


objective = Objective(losses)


def batch_at(step, n=8):
    rng = np.random.default_rng(step)
    x, y = rng.normal(size=(n, 3)), rng.normal(size=(n, 2))
    return {"x": x.astype(np.float32), "y": y.astype(np.float32), "valid": np.ones(n, bool)}


def make(
    decays=(0.9,), warmup=False, clip=0.0, rate=0.1, accumulate=1, objective=objective, seed=0, sigma_rels=(),
    memory=dict,
):  # fmt: skip
    """(state, jitted train step) under Adam; rate is a number or a schedule."""
    optimiser = optim.with_clipping(optim.adam(rate, 0.9, 0.999, 1e-8, 0.0), clip)
    averages = ema.rules(decays, warmup, sigma_rels)
    state = new_state(init, optimiser, tuple(averages), seed, memory)
    return state, jax.jit(make_train_step(objective, Update(optimiser, averages), accumulate))


def run(state, step, first, last):
    for k in range(first, last):
        state, sums = step(state, None, batch_at(k))
    return state, sums


def equal(a, b):
    """Bit for bit, leaf by leaf."""
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True) for x, y in leaves)
