"""Where arrays lie: one mesh axis, `data`. The batch is split over it, the state is whole on every device."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def data_mesh(devices=None) -> Mesh:
    """All devices in one `data` axis, with Auto types: the compiler derives every intermediate sharding."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), devices=devices, axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def over_data(mesh: Mesh) -> NamedSharding:
    """Split along the leading axis."""
    return NamedSharding(mesh, P("data"))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch -> global arrays, split over the mesh."""
    sharding = over_data(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)  # all arrays in one call
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def check_divides(batch_size: int, parts: int, key: str, what: str) -> None:
    if batch_size < 1 or batch_size % parts:
        raise ValueError(f"{key}={batch_size} does not divide over {parts} {what}; make it a multiple of {parts}")
