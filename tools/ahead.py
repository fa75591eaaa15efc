"""A train step compiled ahead of time for a TPU slice, on a machine without one: what the compiler then knows.

Needs libtpu (pip install 'jax[tpu]'), which compiles for any slice by name. It runs in a process of its own, so that
it can be stopped, and the results are kept by program: the same step for the same slice is compiled once.
"""

import collections
import hashlib
import importlib.metadata
import json
import math
import multiprocessing
import os
import re
import time

from etils import epath
from jax.experimental import topologies

import experiment
from training import sharding
from training.chips import CHIPS, Slice
from training.metrics import write_json


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
    key = hashlib.sha256("\n".join([str(slice_), *versions, lowered.as_text()]).encode()).hexdigest()[:20]
    path = cache / f"{slice_.chip}_{key}.json"
    if path.exists():
        return json.loads(path.read_text())
    lowering, began = time.perf_counter() - began, time.perf_counter()
    program = lowered.compile()
    cost, memory, text = program.cost_analysis(), program.memory_analysis(), program.as_text()
    found = {
        "slice": str(slice_),
        "versions": dict(zip(("jax", "libtpu"), versions)),
        "lower_seconds": lowering,
        "compile_seconds": time.perf_counter() - began,
        "memory": {
            "arguments": memory.argument_size_in_bytes,
            "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "program": memory.generated_code_size_in_bytes,
            "peak": memory.peak_memory_in_bytes,
        },
        "compiler_flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "loops": loops(text),
        "collectives": collectives(text),
    }
    write_json(path, found)
    return found


KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
INSTRUCTION = re.compile(rf"(?:ROOT )?%?\S+ = (?P<shapes>.*?) (?P<kind>{KINDS})(?P<start>-start)?\(")
BITS = re.compile(r"\d+$")


def collectives(text: str) -> dict[str, dict[str, int]]:
    """{kind: {count, bytes}} a step of a compiled program's HLO: result bytes (operands', where a sum is scattered).

    What a loop does counts as often as it turns. A collective that the compiler has taken apart, to hide it behind
    arithmetic, keeps its channel and counts once.
    """
    turns, seen = trips(text), {}
    for computation, lines in computations(text).items():
        for number, line in enumerate(lines):
            if match := INSTRUCTION.match(line):
                channel = re.search(r"channel_id=(\d+)", line)
                key = (match["kind"], channel[1] if channel else (computation, number))
                seen[key] = (size_of(match), turns.get(computation, 1))
    found = collections.defaultdict(lambda: {"count": 0, "bytes": 0})
    for (kind, _), (size, times) in seen.items():
        found[kind]["count"] += times
        found[kind]["bytes"] += size * times
    return dict(found)


def size_of(match) -> int:
    shapes = [shape_bytes(*shape) for shape in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", match["shapes"])]
    if match["start"] and match["kind"] != "all-reduce":  # operands, then results
        shapes = shapes[len(shapes) // 2 :] if len(shapes) % 2 == 0 else shapes[1:2]
    return sum(shapes)


def shape_bytes(kind: str, sides: str) -> int:
    bits = BITS.search(kind)
    return math.prod(map(int, filter(None, sides.split(",")))) * (int(bits[0]) if bits else 8) // 8


def computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation of an HLO module, by name."""
    found, lines = {}, []
    for line in text.splitlines():
        if line.endswith("{") and (match := re.match(r"(?:ENTRY )?%?([\w.-]+) ", line)):
            lines = found.setdefault(match[1], [])
        else:
            lines.append(line.strip())
    return found


def trips(text: str) -> dict[str, int]:
    """How often each computation runs, where it is in a loop whose number of turns the compiler knows."""
    called: dict[str, list] = collections.defaultdict(list)
    for name, lines in computations(text).items():
        for line in lines:
            known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            for word, callee in re.findall(r"(body|calls|to_apply|called_computations=\{)=?%?([\w.-]+)", line):
                called[callee].append((name, int(known[1]) if known and word == "body" else 1))

    def runs(name: str) -> int:
        return max((times * runs(caller) for caller, times in called.get(name, ())), default=1)

    return {name: runs(name) for name in computations(text)}


def loops(text: str) -> list[int]:
    """The turns of every loop: bodies count once in the compiler's own FLOPs and bytes."""
    return sorted(map(int, re.findall(r'known_trip_count":\{"n":"(\d+)"', text)))
