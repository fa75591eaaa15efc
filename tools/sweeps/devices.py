"""Which devices this machine has, found without starting jax, which would take them; and each run its own of them."""

import glob
import os
import subprocess
from typing import NamedTuple


class Devices(NamedTuple):
    """Accelerators, or the cores of a machine without any."""

    kind: str  # 'GPU', 'TPU chip', 'CPU core'
    ids: tuple[int, ...]


def visible() -> Devices:
    if gpus := gpu_ids():
        return Devices("GPU", gpus)
    chips = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    if chips:
        return Devices("TPU chip", tuple(range(len(chips))))
    return Devices("CPU core", tuple(sorted(os.sched_getaffinity(0))))


def gpu_ids() -> tuple[int, ...]:
    if (listed := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return tuple(int(word) for word in listed.split(",") if word.strip().isdigit())
    try:
        result = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(range(sum(line.startswith("GPU ") for line in result.stdout.splitlines())))


def share(devices: Devices, runs: int, each: int) -> list[Devices]:
    """What each of `runs` at a time gets; 0 each: all of them, together. Raises ValueError where they do not fit."""
    have = f"this machine has {len(devices.ids)} ({devices.kind})"
    if each == 0:
        if runs > 1 and devices.kind != "CPU core":
            raise ValueError(f"--max_parallel={runs} would share every device: give --devices_per_run; {have}")
        return [devices] * runs
    if runs * each > len(devices.ids):
        raise ValueError(f"--max_parallel={runs} runs of --devices_per_run={each} need {runs * each} devices; {have}")
    return [devices._replace(ids=devices.ids[i * each : (i + 1) * each]) for i in range(runs)]


# How many of a host's chips lie next to each other, in x, y, z: what libtpu wants to know of a part of a host.
BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}


def environment(own: Devices) -> dict[str, str]:
    """What shows a process its own devices alone. CPU cores are set as its affinity instead (pool.py)."""
    ids = ",".join(map(str, own.ids))
    if own.kind == "GPU":
        return {"CUDA_VISIBLE_DEVICES": ids}
    if own.kind == "TPU chip":
        if len(own.ids) not in BOUNDS:
            raise ValueError(f"--devices_per_run={len(own.ids)} TPU chips is not one of {', '.join(map(str, BOUNDS))}")
        bounds = {"TPU_CHIPS_PER_PROCESS_BOUNDS": BOUNDS[len(own.ids)], "TPU_PROCESS_BOUNDS": "1,1,1"}
        return {"TPU_VISIBLE_CHIPS": ids, **bounds}
    return {}
