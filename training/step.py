"""One train step, a pure function of (state, frozen, batch): keys from the step, gradient, update, averages."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from training import ema
from training.state import TrainState

# A metric is a (total, count) pair of arrays, so that micro-batches and windows of steps add up.
Sums = dict[str, tuple[jax.Array, jax.Array]]


class Objective(NamedTuple):
    """What is minimised, and what it learns from step to step beside the parameters.

    losses(params, frozen, memory, keys [b], batch, dropout_key) -> (loss of each example [b], sums, notes);
    batch['position'] [b] is each example's place in the global batch. memory is a dict of arrays and lives in
    state.extra: learn(memory, notes) -> memory, given the notes [b] of the whole batch, after the gradient. sees(state)
    is what it is given beside it: the step, an average.
    labels: names of the entries of those sums that are vectors. Parts of the parameters that play against each other
    have the sum of their losses for a loss, each stopping the gradient to the other's part: one gradient then holds
    each part's own.
    """

    losses: Callable[..., tuple[jax.Array, Sums, Any]]
    memory: Callable[[], dict] = dict
    learn: Callable[[dict, Any], dict] = lambda memory, notes: memory
    labels: dict[str, tuple[str, ...]] = {}
    sees: Callable[[TrainState], dict] = lambda state: {}


class Update(NamedTuple):
    """How a gradient becomes the next state."""

    optimiser: optax.GradientTransformation  # at a peak learning rate of 1, which state.extra['lr'] multiplies
    averages: dict[str, ema.Rule]  # by name
    averaged: tuple[str, ...] = ()  # names, at the top of the parameters, of what is averaged; () for all
    project: Callable[[Any], Any] = lambda params: params  # onto what parameters may be, after each update
    clip_each: float = 0.0  # > 0: the norm to which each micro-batch's share of the gradient is clipped


def step_keys(seed: jax.Array, step: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """[n] keys of the examples and one for dropout: functions of (seed, step, example), whatever the machine."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n)), jax.random.fold_in(key, DROPOUT)


def make_train_step(objective: Objective, update: Update, accumulate: int = 1) -> Callable:
    """-> train_step(state, frozen, batch) -> (state, sums). batch['valid'] [b] masks examples out of the loss."""

    def train_step(state: TrainState, frozen, batch):
        n = batch["valid"].shape[0]
        batch = batch | {"position": jnp.arange(n)}
        keys, dropout_key = step_keys(state.extra["seed"], state.step, n)
        examples = jnp.maximum(batch["valid"].sum(), 1)
        memory = state.extra.get("memory", {})
        known = memory | objective.sees(state)

        def loss(params, part, part_keys, part_key):
            losses, sums, notes = objective.losses(params, frozen, known, part_keys, part, part_key)
            total = jnp.where(part["valid"], losses, 0.0).sum()
            sums = sums | {"loss": (total, part["valid"].sum())}
            return total / examples, (sums, notes)

        gradient_of = jax.grad(loss, has_aux=True)
        gradient_of = clipped(gradient_of, update.clip_each) if update.clip_each else gradient_of
        gradient, sums, notes = accumulated(gradient_of, state.params, batch, keys, dropout_key, accumulate)
        state, norms = apply_update(state, gradient, update)
        finite = norms["gradient_norm"][1]  # a skipped step does not count in the means, and teaches nothing
        if memory:
            learned = jax.tree.map(partial(jnp.where, finite), objective.learn(memory, notes), memory)
            state = state.replace(extra=state.extra | {"memory": learned})
        return state, jax.tree.map(lambda x: jnp.where(finite, x, 0), sums) | norms

    return train_step


def clipped(gradient_of, norm: float):
    """gradient_of whose gradient has at most this global norm."""

    def limited(*args):
        gradient, rest = gradient_of(*args)
        return optax.clip_by_global_norm(norm).update(gradient, ())[0], rest

    return limited


def accumulated(gradient_of, params, batch, keys, dropout_key, parts: int):
    """The gradient and the sums of `parts` micro-batches, added up one after the other, and the notes of all.

    Micro-batch j takes every parts-th example from j on, so that each device keeps to the examples it holds.
    """
    if parts == 1:
        gradient, (sums, notes) = gradient_of(params, batch, keys, dropout_key)
        return gradient, sums, notes

    def split(x):
        return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)

    def add(carry, inputs):
        part, part_keys, j = inputs
        gradient, (sums, notes) = gradient_of(params, part, part_keys, jax.random.fold_in(dropout_key, j))
        return jax.tree.map(jnp.add, carry, (gradient, sums)), notes

    inputs = jax.tree.map(split, batch), split(keys), jnp.arange(parts)
    gradient, (sums, _) = jax.eval_shape(gradient_of, params, *jax.tree.map(lambda x: x[0], inputs[:2]), dropout_key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (gradient, sums))
    total, notes = jax.lax.scan(add, zeros, inputs)
    return *total, jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), notes)


def apply_update(state: TrainState, gradient, update: Update) -> tuple[TrainState, Sums]:
    """The state one step on. A non-finite gradient changes nothing but the counters of skipped updates."""
    norm = optax.global_norm(gradient)
    finite = jnp.isfinite(norm)  # one number for all leaves: a test of each leaf compiles ten times as long
    updates, opt_state = update.optimiser.update(gradient, state.opt_state, state.params)
    updates = jax.tree.map(lambda update: state.extra["lr"] * update, updates)
    params = update.project(optax.apply_updates(state.params, updates))
    taken = state.step - state.extra["skipped"]
    averages = ema.update_all(state.ema, ema.part(params, update.averaged), update.averages, taken)

    old = (state.params, state.opt_state, state.ema)
    new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), (params, opt_state, averages), old)
    skipped = 1 - finite.astype(jnp.int32)
    extra = state.extra | {
        "skipped": state.extra["skipped"] + skipped,
        "skipped_in_a_row": (state.extra["skipped_in_a_row"] + skipped) * skipped,
    }
    state = TrainState(step=state.step + 1, params=new[0], opt_state=new[1], ema=new[2], extra=extra)
    sums = {"gradient_norm": (jnp.where(finite, norm, 0.0), finite.astype(jnp.int32))}
    return state, sums | {"skipped_in_a_row": (extra["skipped_in_a_row"], jnp.int32(1))}


# Folded into the step's key beside the numbers of its examples, which stay below it.
DROPOUT = 2**32 - 1
