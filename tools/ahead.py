"""A train step compiled ahead of time for a TPU slice, on a machine without one: what the compiler then knows.

Needs libtpu (pip install 'jax[tpu]'), which compiles for any slice by name. It runs in a process of its own, so that
it can be stopped, and the results are kept by program: the same step for the same slice is compiled once.
"""

import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import time

from etils import epath
from jax.experimental import topologies

import experiment
from tools import hlo
from training import sharding
from training.chips import CHIPS, Slice
from training.metrics import write_json

FORMAT = "2"  # of a report: those of another are not read


def compiled(config, slice_: Slice, seconds: float, cache: str) -> dict:
    """The facts of `report`. Raises ValueError, in one line, for what cannot be compiled, or not in so many seconds."""
    if not CHIPS[slice_.chip].axes:
        raise ValueError(f"--compile works for TPU slices alone; {slice_} is of GPUs, which compile where they are")
    try:
        importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        raise ValueError("--compile needs libtpu: pip install 'jax[tpu]' (no TPU is needed)") from None
    # Spawned, not forked: a fork of a process with JAX's threads may hang.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=work, args=(config, slice_, cache, sender), daemon=True)
    worker.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise ValueError(f"not compiled in {seconds:.0f} s; raise --compile_limit, or try a smaller network")
        answer = receiver.recv()
    except EOFError:
        raise ValueError(f"the compiler died (exit status {worker.exitcode}); it said why above") from None
    finally:
        worker.kill()
        worker.join()
    if isinstance(answer, str):
        raise ValueError(answer)
    return answer


def work(config, slice_: Slice, cache: str, sender) -> None:
    """Compiles, or finds what was compiled, and sends the report, or one line of what went wrong."""
    # libtpu is loaded for its compiler alone: it need not be the only one, and has no metadata server to ask.
    os.environ |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}
    try:
        sender.send(report(config, slice_, epath.Path(cache)))
    except Exception as error:  # whatever the compiler raises, the user gets its first line
        sender.send((str(error).strip().splitlines() or [repr(error)])[0][:300])


def report(config, slice_: Slice, cache: epath.Path) -> dict:
    one_host = {"chips_per_host_bounds": (1, 1, 1)} if slice_.chips == 1 else {}
    devices = topologies.get_topology_desc(platform="tpu", topology_name=str(slice_), **one_host).devices
    mesh = sharding.make_mesh(config.mesh.to_dict(), devices)
    built = experiment.build(config, mesh)
    batch = experiment.abstract_batch(config, mesh, config.train.batch_size)
    began = time.perf_counter()
    lowered = built.train_step.lower(built.abstract, built.abstract_frozen, batch)
    versions = [importlib.metadata.version(name) for name in ("jax", "libtpu")]
    known_by = [FORMAT, str(slice_), *versions, lowered.as_text()]
    key = hashlib.sha256("\n".join(known_by).encode()).hexdigest()[:20]
    path = cache / f"{slice_.chip}_{key}.json"
    if path.exists():
        return json.loads(path.read_text())
    lowering, began = time.perf_counter() - began, time.perf_counter()
    program = lowered.compile()
    compiling = time.perf_counter() - began
    cost, memory, said = program.cost_analysis(), program.memory_analysis(), hlo.parse(program.as_text())
    found = {
        "slice": str(slice_),
        "versions": dict(zip(("jax", "libtpu"), versions)),
        "lower_seconds": lowering,
        "compile_seconds": compiling,
        "memory": {
            "arguments": memory.argument_size_in_bytes,
            "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "program": memory.generated_code_size_in_bytes,
            "peak": memory.peak_memory_in_bytes,
        },
        "compiler_flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "hbm_bytes": hlo.hbm_bytes(said),
        "loops": hlo.loops(said),
        "collectives": hlo.collective_bytes(said),
    }
    write_json(path, found)
    return found
