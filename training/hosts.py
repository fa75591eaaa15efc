"""Several processes as one: how they find each other, which of them writes, and what all of them agree on.

Every process runs the same program on its part of each batch. Process 0 alone writes what is shared; checkpoints are
written by all, each its own part, so that the workdir is one that all see.
"""

import glob
import importlib.util
import os
import sys
from collections.abc import Mapping


def connect(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes, before any device is touched; alone where there are no others.

    They are found by the three arguments (all or none), or by the environment: a Cloud TPU VM, a SLURM step or an Open
    MPI world of several tasks, or JAX_COORDINATOR_ADDRESS. Raises ValueError, in one line, when they cannot be.
    """
    import jax  # not above: small files are written without it

    asked = (coordinator, num_processes, process_id)
    if any(word is not None for word in asked) and None in asked:
        raise ValueError(
            "--coordinator=HOST:PORT, --num_processes and --process_id go together: give all three, or none"
        )
    if coordinator is None and not started_as_one(os.environ, on_tpu_vm()):
        return
    try:
        jax.distributed.initialize(*asked)
    except (ValueError, RuntimeError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise ValueError(f"the processes of this job do not find each other: {first}; name them with --coordinator, "
                         "--num_processes and --process_id, or stay alone with --nodistributed") from None  # fmt: skip


def started_as_one(environment: Mapping[str, str], tpu_vm: bool) -> bool:
    """Whether the environment says that this process is one of several (on a TPU VM: may be)."""
    counted = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    several = any(int(environment.get(name) or 1) > 1 for name in counted)
    return several or tpu_vm or "JAX_COORDINATOR_ADDRESS" in environment


def on_tpu_vm() -> bool:
    devices = glob.glob("/dev/accel[0-9]*") + glob.glob("/dev/vfio/[0-9]*")
    return bool(devices) and importlib.util.find_spec("libtpu") is not None


def writes() -> bool:
    """Whether this process is the one that writes what all share."""
    # Without jax a process is alone; and jax is not asked for a process's number before it joined others: that would
    # take the devices.
    jax = sys.modules.get("jax")
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


def agreed(answer: bool) -> bool:
    """Process 0's answer, on all: two that look at one file system may see it at different times."""
    import jax

    if jax.process_count() == 1:
        return answer
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(answer))
