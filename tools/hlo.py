"""What a compiled program of a TPU says of itself, read from its text (HLO): collectives, loops, traffic with HBM."""

import collections
import math
import re
from functools import cache
from typing import NamedTuple

from training.sharding import round_up

SHAPE = re.compile(r"([a-z]+\d*)\[([\d,]*)\](?:\{([^}]*)\})?")
OPERATION = re.compile(r"(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shapes>.*?) (?P<kind>[a-z][\w-]*)\((?P<operands>[^)]*)\)")
BITS = re.compile(r"\d+$")
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# Memory spaces, as a layout names them: S(1) is on the chip (VMEM), S(2), S(4) and S(6) are flags and scalars, S(5) is
# the host's; without one, an array is in the chip's main memory (HBM).
ELSEWHERE = re.compile(r"S\([1-9]\)")
# Operations that move nothing, and custom calls that only say how memory is laid out.
VIEWS = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "opt-barrier", "after-all", "partition-id")
LAYOUTS = ('custom_call_target="ConcatBitcast"', 'custom_call_target="AllocateBuffer"')


class Shape(NamedTuple):
    kind: str  # bf16
    sides: str  # 16,64
    layout: str  # 1,0:T(8,128)(2,1)S(1)


class Operation(NamedTuple):
    name: str
    kind: str
    shapes: tuple[Shape, ...]  # of its results
    operands: tuple[str, ...]
    line: str

    def named(self, word: str) -> str | None:
        """The computation that stands behind 'calls=', 'body=', .."""
        found = re.search(rf"\b{word}=%?([\w.-]+)", self.line)
        return found[1] if found else None


class Program(NamedTuple):
    computations: dict[str, list[Operation]]
    entry: str


def parse(text: str) -> Program:
    found, lines, entry = {}, [], ""
    for line in text.splitlines():
        if line.endswith("{") and (match := re.match(r"(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) ", line)):
            lines = found.setdefault(match["name"], [])
            entry = match["name"] if match["entry"] else entry
        elif match := OPERATION.match(line.strip()):
            shapes = tuple(Shape(*shape) for shape in SHAPE.findall(match["shapes"]))
            operands = tuple(re.findall(r"%([\w.-]+)", match["operands"]))
            lines.append(Operation(match["name"], match["kind"], shapes, operands, line.strip()))
    return Program(found, entry)


def loops(program: Program) -> list[int]:
    """The turns of every loop of which they are known: bodies count once in the compiler's own FLOPs and bytes."""
    whiles = (op for lines in program.computations.values() for op in lines if op.kind == "while")
    return sorted(filter(None, (turns(program, op) for op in whiles)))


def turns(program: Program, loop: Operation) -> int | None:
    """How often a loop turns: as it says, or as its condition counts, 'i < 5'; None where that is not known."""
    if said := re.search(r'known_trip_count":\{"n":"(\d+)"', loop.line):
        return int(said[1])
    condition = program.computations.get(loop.named("condition") or "", [])
    numbers = [re.search(r"constant\((\d+)\)", op.line) for op in condition if op.kind == "constant"]
    counted = [int(number[1]) for number in numbers if number]
    return counted[0] if len(counted) == 1 and any("direction=LT" in op.line for op in condition) else None


def collective_bytes(program: Program) -> dict[str, dict[str, int]]:
    """{kind: {count, bytes}} of a step: result bytes (operands', where a sum is scattered).

    What a loop does counts as often as it turns. A collective that the compiler has taken apart, to hide it behind
    arithmetic, keeps its channel and counts once.
    """
    times, seen = runs(program), {}
    for computation, lines in program.computations.items():
        for number, op in enumerate(lines):
            kind = op.kind.removesuffix("-start")
            if kind in COLLECTIVES:
                channel = re.search(r"channel_id=(\d+)", op.line)
                key = (kind, channel[1] if channel else (computation, number))
                seen[key] = (sent(op), times.get(computation, 1))
    found = collections.defaultdict(lambda: {"count": 0, "bytes": 0})
    for (kind, _), (size, often) in seen.items():
        found[kind]["count"] += often
        found[kind]["bytes"] += size * often
    return dict(found)


def sent(op: Operation) -> int:
    shapes = [shape_bytes(shape.kind, shape.sides) for shape in op.shapes]
    if op.kind.endswith("-start") and op.kind != "all-reduce-start":  # operands, then results
        shapes = shapes[len(shapes) // 2 :] if len(shapes) % 2 == 0 else shapes[1:2]
    return sum(shapes)


def runs(program: Program) -> dict[str, int]:
    """How often each computation runs, in loops whose number of turns is known."""
    called = collections.defaultdict(list)
    for name, lines in program.computations.items():
        for op in lines:
            often = (turns(program, op) or 1) if op.kind == "while" else 1
            for word, callee in re.findall(r"\b(body|calls|to_apply|called_computations=\{)=?%?([\w.-]+)", op.line):
                called[callee].append((name, often if word == "body" else 1))

    @cache
    def count(name: str) -> int:
        return max((times * count(caller) for caller, times in called.get(name, ())), default=1)

    return {name: count(name) for name in program.computations}


def hbm_bytes(program: Program) -> int:
    """What a step reads from a chip's main memory (HBM) and writes there.

    The operands and results of every operation, each once, padded as they lie, but for those that the compiler has put
    elsewhere (the chip's own memory above all). Its "bytes accessed" count those too, and what is moved from one to
    the other at both ends. Of an operand that a fusion only slices the slices count, of a result that it only updates
    the update; what a loop does counts as often as it turns. The program itself is left out.
    """

    @cache
    def total(name: str) -> int:
        known = {op.name: op.shapes for op in program.computations[name]}
        return sum(moved(op, known) + below(op) for op in program.computations[name])

    def below(op: Operation) -> int:
        if op.kind == "while":
            return (turns(program, op) or 1) * total(op.named("body"))
        if op.kind == "call":
            return total(op.named("to_apply"))
        if op.kind == "conditional":
            branches = re.search(r"branch_computations=\{([^}]*)\}", op.line)
            names = re.findall(r"[\w.-]+", branches[1]) if branches else []
            names += filter(None, (op.named("true_computation"), op.named("false_computation")))
            return max(map(total, names), default=0)
        return 0

    def moved(op: Operation, known: dict) -> int:
        if op.kind in (*VIEWS, "while", "call", "conditional") or op.kind.endswith(("-done", "-update")):
            return 0
        if any(layout in op.line for layout in LAYOUTS):
            return 0
        if op.kind in ("copy-start", "slice-start"):  # no more is read than what is written
            target, source = op.shapes[:2] if op.kind == "copy-start" else (op.shapes[-2], op.shapes[0])
            return laid_out_bytes(target) * sum(not ELSEWHERE.search(end.layout) for end in (source, target))
        operands = [known.get(name, ()) for name in op.operands]
        if op.kind in ("dynamic-slice", "slice"):
            return 2 * in_hbm(op.shapes) if in_hbm(operands[0]) else in_hbm(op.shapes)
        if op.kind == "dynamic-update-slice":
            return in_hbm(operands[1]) + (sum(map(laid_out_bytes, operands[1])) if in_hbm(op.shapes) else 0)
        if op.kind.endswith("-start"):  # its results name its operands first
            return in_hbm(op.shapes)
        if op.kind == "fusion":
            return fused(op, operands)
        return in_hbm(op.shapes) + sum(map(in_hbm, operands))

    def fused(op: Operation, operands: list) -> int:
        callee = op.named("calls")
        reads, writes = inside(program, callee)
        passed = set()
        if re.match(r"async", callee) or re.match(r"async-collective", op.name):
            # What such a fusion hands on, for a transfer that runs beside it, is not touched by it.
            passed = {(int(out or 0), int(given)) for out, given in re.findall(r"\{(\d*)\}: \((\d+), \{\}\)", op.line)}
        skipped_in, skipped_out = {given for _, given in passed}, {out for out, _ in passed}
        amount = 0
        for i, shapes in enumerate(operands):
            if i not in skipped_in and in_hbm(shapes):
                amount += min(in_hbm(shapes), reads.get(i, in_hbm(shapes)))
        for i, shape in enumerate(op.shapes):
            if i not in skipped_out and in_hbm((shape,)):
                amount += min(in_hbm((shape,)), writes.get(i, in_hbm((shape,))))
        return amount

    return total(program.entry)


def inside(program: Program, name: str) -> tuple[dict[int, int], dict[int, int]]:
    """({parameter: bytes}, {result: bytes}) of those that a fused computation does not read, or write, as a whole."""
    ops = {op.name: op for op in program.computations.get(name, [])}
    users = collections.defaultdict(list)
    for op in ops.values():
        for operand in op.operands:
            users[operand].append(op)

    def read(value: str) -> int | None:
        """What is read of a value; None: all of it."""
        amounts = [read_by(user, value) for user in users[value]]
        return None if None in amounts or ops[value].line.startswith("ROOT") else sum(amounts)

    def read_by(user: Operation, value: str) -> int | None:
        if user.kind in ("slice", "dynamic-slice"):
            return sum(map(laid_out_bytes, user.shapes)) if user.operands[0] == value else 0
        if user.kind == "dynamic-update-slice" and user.operands[0] == value:
            return 0
        if user.kind == "bitcast":
            return read(user.name)
        if user.kind == "fusion":
            whole = inside(program, user.named("calls"))[0]
            parts = [whole.get(i) for i, operand in enumerate(user.operands) if operand == value]
            return None if None in parts else sum(parts)
        return None

    reads = {}
    for op in ops.values():
        if op.kind == "parameter" and (amount := read(op.name)) is not None:
            reads[int(re.search(r"parameter\((\d+)\)", op.line)[1])] = amount
    root = next((op for op in ops.values() if op.line.startswith("ROOT")), None)
    results = () if root is None else root.operands if root.kind == "tuple" else (root.name,)
    writes = {}
    for i, value in enumerate(results):
        op = ops.get(value)
        while op and op.kind == "bitcast":
            op = ops.get(op.operands[0])
        if op and op.kind == "dynamic-update-slice" and op.operands[1] in ops:
            writes[i] = sum(map(laid_out_bytes, ops[op.operands[1]].shapes))
    return reads, writes


def in_hbm(shapes) -> int:
    return sum(laid_out_bytes(shape) for shape in shapes if not ELSEWHERE.search(shape.layout))


def laid_out_bytes(shape: Shape) -> int:
    """Bytes of an array as it lies: its last axes in memory are filled up to whole tiles, '1,0:T(8,128)'."""
    sides = [int(side) for side in shape.sides.split(",") if side]
    order, _, tiles = shape.layout.partition(":")
    tile = re.match(r"T\(([\d,]+)\)", tiles)
    for axis, size in zip(order.split(","), reversed(tile[1].split(",")) if tile else ()):
        if axis:
            sides[int(axis)] = round_up(sides[int(axis)], int(size))
    return shape_bytes(shape.kind, ",".join(map(str, sides)))


def shape_bytes(kind: str, sides: str) -> int:
    bits = BITS.search(kind)
    return math.prod(map(int, filter(None, sides.split(",")))) * (int(bits[0]) if bits else 8) // 8
