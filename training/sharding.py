"""Where arrays lie: a mesh of three axes, and rules over names and sizes, so that no model says a word of it.

    data     the batch is split over it, and parameters are whole on each of its devices
    fsdp     the batch is split over it too, and so is every large parameter, gathered where it is used (FSDP, ZeRO-3)
    tensor   attention heads and wide layers are split over it; the batch is not

Averages and optimiser state lie as their parameters do. With Auto axis types the compiler derives the rest.
"""

import math
import re
from functools import partial

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from training.checkpoint import part_name

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))

SMALLEST = 4096  # elements; a smaller parameter is cheaper to keep whole than to gather

# (pattern searched in a parameter's name, its axis over `tensor`). First what makes the parts of an activation, by
# output features, then what takes them in and sums over them: one all-reduce for the pair (Megatron-LM, 1909.08053).
TENSOR_RULES = (
    (r"(^|/)(query|(text_)?key|(text_)?value|conv_1|embedding|wi(_\d)?)/(kernel|bias)$", -1),
    (r"(^|/)(out|conv_2|wo)/kernel$", -2),
)
# Adafactor's factors lack one axis of their parameter: its largest, or its second largest (optax sorts them so).
FACTORS = {"v_row": -1, "v_col": -2}


def mesh_sizes(asked: dict[str, int], devices: int) -> dict[str, int]:
    """The size of every axis, that which is asked as -1 being what is left. Raises ValueError unless they multiply."""
    free = [axis for axis in AXES if asked[axis] == -1]
    text = ", ".join(f"mesh.{axis}={asked[axis]}" for axis in AXES)
    if len(free) > 1 or any(size < 1 for axis, size in asked.items() if axis not in free):
        raise ValueError(f"{text}: give sizes of 1 or more, and -1 (what is left) at most once")
    given = math.prod(size for size in asked.values() if size != -1)
    if devices % given or (not free and given != devices):
        raise ValueError(f"{text} multiply to {given}, which does not {'divide' if free else 'equal'} the {devices} "
                         f"devices; {'change the sizes' if free else 'write -1 for one of them'}")  # fmt: skip
    return {axis: devices // given if axis in free else asked[axis] for axis in AXES}


def make_mesh(asked: dict[str, int], devices=None) -> Mesh:
    """A mesh over the devices of all processes, in the processes' order: each then holds one block of the batch."""
    devices = sorted(jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id))
    sizes = mesh_sizes(asked, len(devices))
    each = len(devices) // len({device.process_index for device in devices})
    if sizes["tensor"] % each and each % sizes["tensor"]:
        raise ValueError(
            f"mesh.tensor={sizes['tensor']}: it, or the {each} devices of a process, must divide the other"
        )
    return Mesh(np.reshape(devices, list(sizes.values())), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def data_mesh(devices=None) -> Mesh:
    """All devices along `data`."""
    return make_mesh({"data": -1, "fsdp": 1, "tensor": 1}, devices)


def abstract_mesh(asked: dict[str, int], devices: int) -> AbstractMesh:
    """A mesh without devices, for shapes and sizes alone."""
    sizes = mesh_sizes(asked, devices)
    return AbstractMesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def platform(mesh: Mesh | AbstractMesh) -> str:
    """'cpu', 'gpu' or 'tpu'; 'none' for a mesh without devices."""
    return "none" if isinstance(mesh, AbstractMesh) else mesh.devices.flat[0].platform


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def over_data(mesh: Mesh) -> NamedSharding:
    """A batch: its leading axis split."""
    return NamedSharding(mesh, BATCH)


def layout(mesh: Mesh | AbstractMesh, tree, params=None):
    """The sharding of every leaf of `tree`, arrays or their shapes.

    Without `params` every leaf is a parameter, placed by its name and shape. With them a leaf belongs to that
    parameter whose name ends its own ('ema/0.9999/conv_in/kernel'), and lies as it does, less the axis that a factor
    of it lacks; what belongs to none (counters, keys) is whole on every device.
    """
    params = named_leaves(tree if params is None else params)
    placed = {name: (leaf.shape, spec_of(mesh, name, leaf.shape)) for name, leaf in params.items()}

    def place(path, leaf):
        parts = list(map(part_name, path))
        owner = next((name for name in suffixes(parts) if name in placed), None)
        return NamedSharding(mesh, like(*placed[owner], leaf.shape, parts) if owner else P())

    return jax.tree.map_with_path(place, tree)


def spec_of(mesh, name: str, shape: tuple[int, ...]) -> P:
    """How a parameter lies: heads and wide layers by TENSOR_RULES, then the largest axis that `fsdp` divides."""
    axes = [None] * len(shape)
    fsdp, tensor = mesh.shape["fsdp"], mesh.shape["tensor"]
    rule = next((axis for pattern, axis in TENSOR_RULES if re.search(pattern, name)), None)
    if tensor > 1 and rule is not None and shape[rule] % tensor == 0:
        axes[rule] = "tensor"
    free = [i for i, size in enumerate(shape) if axes[i] is None and size % fsdp == 0]
    if fsdp > 1 and free and math.prod(shape) >= SMALLEST:
        axes[max(free, key=lambda i: (shape[i], i))] = "fsdp"
    return P(*axes)


def placement(mesh: Mesh):
    """(name, shape) -> the sharding of a parameter that is read rather than made."""
    return lambda name, shape: NamedSharding(mesh, spec_of(mesh, name, shape))


def like(shape: tuple[int, ...], spec: P, own: tuple[int, ...], parts: list[str]) -> P:
    """How a leaf of shape `own`, whose name has `parts`, lies beside its parameter of `shape` and `spec`."""
    if own == shape:
        return spec
    for axis in (np.argsort(shape)[FACTORS[part]] for part in parts if part in FACTORS and len(shape) > 1):
        if own == tuple(np.delete(shape, axis)):
            return P(*np.delete(np.array(spec, object), axis))
    return P()


def gathering(mesh, apply, again: bool):
    """apply(params, ...) that gathers what `fsdp` splits, forward and, with `again`, once more backward.

    Without `again` it is kept in between. That is for networks with remat of their own, which a checkpoint around the
    whole of them would undo. With it the backward pass has of the forward what `kept` says and computes the rest again:
    all that a checkpoint keeps is in memory, so that norms and nonlinearities, kept in float32, would take two thirds
    of a step's. Gradients are scattered in either case. All this is said here, since the compiler would in places
    rather move the activations than the parameters, which costs more.
    """
    if mesh.shape["fsdp"] == 1:
        return apply

    def applied(params, *rest):
        return apply(jax.tree.map(partial(gathered, mesh), params, layout(mesh, params)), *rest)

    return jax.checkpoint(applied, policy=kept) if again else applied


def kept(primitive, *_, **__) -> bool:
    """Results of arithmetic that costs; what was drawn, behind its barrier; and what is named (models/layers.double).

    Without the last the compiler would move the doubled activations of all chips, to multiply them by their gradient.
    """
    return primitive.name in ("dot_general", "conv_general_dilated", "optimization_barrier", "name")


def gathered(mesh, x, split: NamedSharding):
    """x whole over `fsdp`; its gradient split as x is."""
    if "fsdp" not in split.spec:
        return x
    whole = NamedSharding(mesh, P(*(None if axis == "fsdp" else axis for axis in split.spec)))

    constrain = jax.lax.with_sharding_constraint
    gather = jax.custom_vjp(lambda x: constrain(x, whole))
    gather.defvjp(lambda x: (constrain(x, whole), None), lambda _, g: (constrain(g, split),))
    return gather(x)


def check_used(mesh, params) -> None:
    """Raises ValueError for an axis of the mesh over which no parameter is split."""
    used = {axis for sharding in jax.tree.leaves(layout(mesh, params)) for axis in sharding.spec}
    for axis in ("fsdp", "tensor"):
        if mesh.shape[axis] > 1 and axis not in used:
            raise ValueError(f"mesh.{axis}={mesh.shape[axis]} divides no layer of this network; use another size, or 1")


def laid_out(tree, shardings):
    """Shapes and types with their shardings: what a checkpoint is restored into."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def bytes_per_device(tree) -> int:
    """What one device holds of a tree of arrays, or of shapes with shardings."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def named_leaves(tree) -> dict:
    return {"/".join(map(part_name, path)): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def suffixes(parts: list[str]):
    """The names that a path ends in, longest first."""
    return ("/".join(parts[i:]) for i in range(len(parts)))


def batch_parts(mesh) -> int:
    """Into how many equal parts the mesh splits a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def batch_share(mesh: Mesh) -> dict[str, int]:
    """Which block of a batch's rows this process holds, and of how many, in the words of the input pipeline.

    Processes that share the layers of one part (tensor) hold the same block.
    """
    processes = np.reshape([device.process_index for device in mesh.devices.flat], (batch_parts(mesh), -1))
    own = np.flatnonzero((processes == jax.process_index()).any(axis=1))
    return {"process_index": int(own[0]) // len(own), "process_count": len(processes) // len(own)}


def put_batch(batch, mesh: Mesh):
    """This process's rows of a batch, a tree of arrays -> global arrays, split over the mesh."""
    sharding = over_data(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)  # all arrays in one call
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def check_divides(batch_size: int, parts: int, key: str, what: str) -> None:
    if batch_size < 1 or batch_size % parts:
        raise ValueError(f"{key}={batch_size} does not divide over {parts} {what}; make it a multiple of {parts}")
