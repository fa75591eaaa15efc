"""What a config needs of a slice, without compiling: the program is traced, and its values are followed by size.

Known from the trace are parameters, model FLOPs and the bytes of the state. Estimated are activations and memory
traffic, by one rule: what a matrix product, a convolution or a loop takes in or gives out is in memory from then to its
last use, and what is elementwise in between is fused, so that it is neither held nor moved. The compiler does better
in places (fusing into a convolution) and worse in others (copies; padding, tenfold for layers of 32 channels on a TPU).
"""

import functools
import math
from typing import Any, NamedTuple

import jax
from jax.extend import core
from ml_collections import ConfigDict, FrozenConfigDict

import experiment
from training import flops, sharding
from training.chips import CHIPS, Slice
from training.state import TrainState

ROOM = 0.92  # share of the memory that a program gets: the runtime and fragmentation take the rest
USUAL = 0.4  # share of the peak that trainings commonly reach; assumed


class Estimate(NamedTuple):
    """Of one train step. Bytes are one chip's; `operations` are the whole step's."""

    parameters: int
    averages: int
    operations: int
    inside: int  # of them, those that meet a pixel and not a border's zeros: what a compiler counts
    state: int
    frozen: int  # parameters that are not trained
    gathered: int  # by fsdp, and kept from forward to backward
    gradients: int
    activations: int
    traffic: int
    sent: int  # over the interconnect

    @property
    def memory(self) -> int:
        return self.state + self.frozen + self.gathered + self.gradients + self.activations


class Program(NamedTuple):
    """What a jaxpr holds at most, and moves, beside its arguments, in bytes."""

    peak: int
    traffic: int


def estimate(config, chips: int) -> Estimate:
    """Raises ValueError, as a training would, for a mesh or a batch that the chips do not divide into."""
    mesh = sharding.abstract_mesh(config.mesh.to_dict(), chips)
    experiment.check_batches(config, mesh)
    step = traced(config)
    sharding.check_used(mesh, step.state.params)
    state = sharding.laid_out(step.state, sharding.layout(mesh, step.state, step.state.params))
    frozen = sharding.bytes_per_device(sharding.laid_out(step.frozen, sharding.layout(mesh, step.frozen)))
    images, micro = config.train.batch_size, config.optim.accumulate
    rows = images // sharding.batch_parts(mesh)
    again = config.model.remat == "none"
    once = step if again else traced(config, remat="none")
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))
    held, own = sharding.bytes_per_device(state.params), sharding.bytes_per_device(state)
    return Estimate(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        averages=len(state.ema),
        operations=once.operations * images // ROWS,
        inside=once.inside * images // ROWS,
        state=own,
        frozen=frozen,
        gathered=0 if again or mesh.shape["fsdp"] == 1 else whole // mesh.shape["tensor"],
        gradients=held * (2 if micro > 1 else 1),
        activations=step.program.peak * rows // micro // ROWS,
        # the state is read and written; parameters are read forward and backward, whole, and frozen ones as they lie
        traffic=step.program.traffic * rows // ROWS + 2 * own + (2 * whole // mesh.shape["tensor"] + frozen) * micro,
        sent=sent(mesh, state.params, micro, gathers=2 if again else 1),
    )


class Traced(NamedTuple):
    """A train step on ROWS images of one device: all that follows from the network alone."""

    state: TrainState  # shapes, as are those of `frozen`
    frozen: Any
    operations: int
    inside: int
    program: Program


ROWS = 8


def traced(config, **model) -> Traced:
    """The step of a config, with fields of its model changed: traced once, whatever the mesh and the batch."""
    config = config.copy_and_resolve_references()
    config.model.update(model)
    config.mesh.update(data=1, fsdp=1, tensor=1)
    config.train.batch_size, config.optim.accumulate = ROWS, 1
    return _traced(FrozenConfigDict(config))


@functools.cache
def _traced(config: FrozenConfigDict) -> Traced:
    built = experiment.build(ConfigDict(config), sharding.abstract_mesh(config.mesh.to_dict(), 1))
    batch = experiment.abstract_batch(config, built.mesh, ROWS)
    jaxpr = jax.make_jaxpr(built.train_step)(built.abstract, built.abstract_frozen, batch)
    parameters = {leaf.shape for leaf in jax.tree.leaves(built.abstract.params)}
    counts = flops.count(jaxpr), flops.count(jaxpr, borders=False)
    return Traced(built.abstract, built.abstract_frozen, *counts, follow(jaxpr, parameters))


def sent(mesh, params, accumulate: int, gathers: int) -> int:
    """Bytes that a chip sends in a step, by rings: parameters gathered, gradients scattered, then summed.

    `tensor` is left out: its traffic is of activations.
    """
    total = 0
    data, fsdp = mesh.shape["data"], mesh.shape["fsdp"]
    for leaf in jax.tree.leaves(params):
        size = leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        split = "fsdp" in leaf.sharding.spec
        total += (gathers + 1) * size * (fsdp - 1) * accumulate if split else 0
        copies = data if split else data * fsdp
        total += 2 * size * (copies - 1) // copies
    return total


# Primitives whose operands and results are in memory; all others are taken to be fused into these.
HEAVY = {"dot_general", "conv_general_dilated", "scan", "while", "cond", "sort", "gather", "scatter-add", "cumsum"}
VIEWS = {"reshape", "transpose", "squeeze", "expand_dims", "copy"}


def follow(jaxpr, unseen: set[tuple]) -> Program:
    """Peak and traffic of a jaxpr. Values of the shapes `unseen`, gradients and parameters, are counted elsewhere."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    sources: dict = {}  # value -> the values in memory that it is made of
    size, born, dies = {}, {}, {}
    clock, extra, traffic = 0, {}, 0

    def of(value) -> frozenset:
        return frozenset() if isinstance(value, core.Literal) else sources.get(value, frozenset())

    def use(values) -> None:
        nonlocal traffic
        for value in values:
            dies[value] = clock
            traffic += size[value]

    def put(value) -> None:
        """From now on in memory, in its own right."""
        nonlocal traffic
        shape = value.aval.shape
        size[value] = 0 if shape in unseen else math.prod(shape) * getattr(value.aval.dtype, "itemsize", 4)
        born[value] = dies[value] = clock
        sources[value] = frozenset((value,))
        traffic += size[value]

    for equation, rename in flat(jaxpr, {}):
        inputs = [rename(value) for value in equation.invars]
        name = equation.primitive.name
        clock += 1
        if name in HEAVY:
            for value in inputs:
                made_of = of(value)
                use(made_of)
                is_view = len(made_of) == 1 and value not in made_of and size[next(iter(made_of))] == bytes_of(value)
                if made_of and value not in made_of and not is_view:
                    put(value)
            inside = [follow(program, unseen) for program in flops.programs(equation.params.values())]
            extra[clock] = max((program.peak for program in inside), default=0)
            traffic += sum(program.traffic for program in inside) * equation.params.get("length", 1)
            for value in equation.outvars:
                put(value)
        else:
            made_of = frozenset().union(*map(of, inputs))
            sources |= dict.fromkeys(equation.outvars, made_of)
    clock += 1
    use(frozenset().union(*map(of, jaxpr.outvars)))
    return Program(highest(size, born, dies, extra, clock), traffic)


def bytes_of(value) -> int:
    return math.prod(value.aval.shape) * getattr(value.aval.dtype, "itemsize", 4)


def highest(size: dict, born: dict, dies: dict, extra: dict, end: int) -> int:
    """The largest sum of what is alive, and of what a loop's body holds while it runs."""
    change = [0] * (end + 2)
    for value, amount in size.items():
        change[born[value]] += amount
        change[dies[value] + 1] -= amount
    alive = most = 0
    for clock in range(end + 1):
        alive += change[clock]
        most = max(most, alive + extra.get(clock, 0))
    return most


def flat(jaxpr, names: dict):
    """(equation, what to call its operands) in order, with the programs of calls, remat and custom rules inlined."""

    def rename(value):
        return value if isinstance(value, core.Literal) else names.get(value, value)

    for equation in jaxpr.eqns:
        inside = list(flops.programs(equation.params.values()))
        if equation.primitive.name in HEAVY or len(inside) != 1:
            yield equation, rename
            continue
        body = getattr(inside[0], "jaxpr", inside[0])
        inner = dict(zip(body.invars, map(rename, equation.invars)))
        yield from flat(body, inner)
        names |= {out: inner.get(value, value) for out, value in zip(equation.outvars, body.outvars)
                  if not isinstance(value, core.Literal)}  # fmt: skip


def times(found: Estimate, slice_: Slice) -> dict[str, float]:
    """Seconds a step that each peak of the chips allows; the largest is the least that a step can take."""
    chip = CHIPS[slice_.chip]
    return {
        "compute": found.operations / (slice_.chips * chip.flops),
        "memory": found.traffic / chip.bandwidth,
        "interconnect": found.sent / chip.interconnect,
    }
