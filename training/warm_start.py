"""Starting from another run's weights: whole or by name, with what was left out listed."""

import re

import jax
import jax.numpy as jnp
from absl import logging

from training import posthoc
from training.checkpoint import named, part_name
from training.state import TrainState


def read_start(params, init_from: str, weights: str, pattern: str) -> dict[str, jax.Array]:
    """{name: array} of what a network of `params` (abstract or not) starts from, out of DIR[:step].

    weights: the name of an average there (one made after training too), or 'raw'. Parameters whose name
    ('down_32_0/conv_1/kernel') matches `pattern` (re.search) and whose shape agrees are taken; the rest are listed.
    Raises ValueError when nothing is taken.
    """
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"init_pattern={pattern!r} is no regular expression: {error}") from None
    directory, step = split_step(init_from)
    checkpoints = posthoc.holding(directory, weights)
    step = checkpoints.latest() if step is None else step
    if step is None:
        raise ValueError(f"init_from={init_from}: no checkpoint there")
    stored = checkpoints.metadata(step)
    if weights not in checkpoints.weight_names(step):
        raise ValueError(
            f"init_weights={weights!r} is not in {directory}; choose from {', '.join(checkpoints.weight_names(step))}"
        )
    tree = stored["params"] if weights == "raw" else stored["ema"][weights]
    loaded = flat(checkpoints.restore_weights(step, weights, abstract(tree)))
    own = flat(params)
    taken = {name for name in own.keys() & loaded.keys()
             if re.search(pattern, name) and own[name].shape == loaded[name].shape}  # fmt: skip
    if not taken:
        raise ValueError(f"init_from={init_from}: no parameter matches init_pattern={pattern!r} in name and shape")
    report(init_from, step, weights, own, loaded, taken)
    return {name: loaded[name] for name in taken}


def warm_start(state: TrainState, taken: dict[str, jax.Array]) -> TrainState:
    """`state` with these parameters, in every average too; the others, optimiser and step stay new."""

    def choose(path, old):
        name = join(path)
        return jax.device_put(jnp.asarray(taken[name], old.dtype), old.sharding) if name in taken else old

    params = jax.tree.map_with_path(choose, state.params)
    new = flat(params)  # an average may be of a part of the parameters

    def started(average):
        return jax.tree.map_with_path(lambda path, _: jnp.copy(new[join(path)]), average)

    return state.replace(params=params, ema={name: started(average) for name, average in state.ema.items()})


def report(origin: str, step: int, weights: str, own: dict, loaded: dict, taken: set) -> None:
    logging.info("%s step %d (%s): %d of %d parameter arrays loaded", origin, step, weights, len(taken), len(own))
    for what, names in {
        "loaded": sorted(taken),
        "kept at their initial values": sorted(own.keys() - taken),
        "there but not used": sorted(loaded.keys() - taken),
    }.items():
        if names:
            logging.info("%s: %s", what, named(names, most=len(names)))


def split_step(text: str) -> tuple[str, int | None]:
    """'DIR:1000' -> ('DIR', 1000); 'gs://bucket/DIR' -> (itself, None)."""
    directory, colon, step = text.rpartition(":")
    return (directory, int(step)) if colon and step.isdigit() else (text, None)


def abstract(metadata):
    """Stored shapes as a restore target on this process's first device."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), metadata)


def flat(tree) -> dict[str, jax.Array]:
    return {join(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def join(path) -> str:
    return "/".join(map(part_name, path))
