"""All that a run remembers, as arrays: what is not here is a function of the seed and the step."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from training import ema

Params = Any


@flax.struct.dataclass
class TrainState:
    """The whole checkpoint. `step` counts train steps taken, skipped updates included."""

    step: jax.Array
    params: Params
    ema: dict[str, Params]  # by name
    opt_state: optax.OptState
    extra: dict[str, Any]  # seed, lr, skipped, skipped_in_a_row, and the objective's memory where it has one


def new_state(
    init: Callable[[jax.Array], Params],
    optimiser: optax.GradientTransformation,
    ema_names: tuple[str, ...],
    seed: int,
    memory: Callable[[], dict] = dict,
    lr: float = 1.0,
    averaged: tuple[str, ...] = (),
) -> TrainState:
    """The state before the first step: `init(key)` makes the parameters; every average starts as a copy of them,
    or of those parts of them that `averaged` names.

    Seed and learning rate are in it, and what is compiled does not depend on them: a sweep over them compiles once.
    """
    params = init(jax.random.fold_in(jax.random.key(seed), INIT))
    zero = jnp.zeros((), jnp.int32)
    remembered = {"memory": memory()} if memory() else {}
    return TrainState(
        step=zero,
        params=params,
        ema={name: jax.tree.map(jnp.copy, ema.part(params, averaged)) for name in ema_names},
        opt_state=optimiser.init(params),
        extra={"seed": jnp.uint32(seed), "lr": jnp.float32(lr), "skipped": zero, "skipped_in_a_row": zero} | remembered,
    )


# Folded into the seed's key for the parameters; training steps fold in their number, which stays below it.
INIT = 2**32 - 1
