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
    said = [FORMAT, str(slice_), *versions, lowered.as_text()]
    key = hashlib.sha256("\n".join(said).encode()).hexdigest()[:20]
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
        "hbm_bytes": hbm_bytes(text),
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


INSIDE = re.compile(r"S\([1-9]\)")  # a memory space of the chip's own, in a layout
SHAPE = re.compile(r"([a-z]+\d*)\[([\d,]*)\](?:\{([^}]*)\})?")
OPERATION = re.compile(r"(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shapes>.*?) (?P<kind>[a-z][\w-]*)\((?P<operands>[^)]*)\)")
# Operations that move nothing, and custom calls that only say how memory is laid out.
VIEWS = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "while", "opt-barrier", "after-all"}
VIEWS |= {"partition-id", "copy-done", "slice-done", "all-gather-done", "all-reduce-done", "collective-permute-done"}
LAYOUTS = ('custom_call_target="ConcatBitcast"', 'custom_call_target="AllocateBuffer"')


def hbm_bytes(text: str) -> int:
    """What a step of a compiled program reads from a chip's main memory (HBM) and writes there.

    The operands and results of every operation, each once, padded as they lie, but for those that the compiler has put
    into the chip's own memory (VMEM and its like). Its "bytes accessed" count those too, and what is moved from one to
    the other at both ends. A loop's operations count as often as it turns.
    """
    found, turns = computations(text), trips(text)
    bodies = {callee for lines in found.values() for line in lines for callee in re.findall(r"body=%?([\w.-]+)", line)}
    runs = {name: turns.get(name, 1) for name in (*bodies, entry(text))}
    return sum(times * sum(moved(found[name])) for name, times in runs.items())


def entry(text: str) -> str:
    return re.search(r"^ENTRY %?([\w.-]+)", text, re.MULTILINE)[1]


def moved(lines: list[str]):
    """The bytes of each operation of a computation that are read from main memory or written there."""
    known = {}
    for line in lines:
        if not (match := OPERATION.match(line)):
            continue
        shapes = SHAPE.findall(match["shapes"])
        known[match["name"]] = shapes
        if match["kind"] in VIEWS or any(layout in line for layout in LAYOUTS):
            continue
        if match["kind"] in ("copy-start", "slice-start"):  # of the source no more is read than what is written
            source, target = ends(match["kind"], [shape for shape in shapes if shape[1]])
            amount = laid_out_bytes(*target)
            yield sum(amount for end in (source, target) if not INSIDE.search(end[2]))
            continue
        operands = [shape for name in re.findall(r"%([\w.-]+)", match["operands"]) for shape in known.get(name, ())]
        yield sum(laid_out_bytes(*shape) for shape in (*shapes, *operands) if not INSIDE.search(shape[2]))


def ends(kind: str, shapes: list) -> tuple:
    """(source, target) of a transfer, whose result names both."""
    return (shapes[1], shapes[0]) if kind == "copy-start" else (shapes[0], shapes[-1])


def laid_out_bytes(kind: str, sides: str, layout: str) -> int:
    """Bytes of an array as it lies: its last axes in memory are filled up to whole tiles, '1,0:T(8,128)'."""
    shape = [int(side) for side in sides.split(",") if side]
    order, _, tiles = layout.partition(":")
    tile = re.match(r"T\(([\d,]+)\)", tiles)
    for axis, size in zip(order.split(","), reversed(tile[1].split(",")) if tile else ()):
        if axis:
            shape[int(axis)] = -(-shape[int(axis)] // int(size)) * int(size)
    return shape_bytes(kind, ",".join(map(str, shape)))


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
