"""The one table of chips: what their makers publish, and slices of them by name.

Peaks are dense bfloat16, memory is per chip, and interconnect is what one chip sends in one direction, over all its
links. v4, v5e, v5p, v6e and tpu7x: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, read in November 2026
(where two of its pages differ, the chip's own); their bidirectional figures are halved. NVIDIA: the data sheets of A100
(SXM), H100 (SXM), H200 and B200; their sparse figures are halved, and so is NVLink's sum over both directions.
"""

import math
from typing import NamedTuple

GB, GIB, TERA = 1e9, 2**30, 1e12


class Chip(NamedTuple):
    flops: float  # bfloat16 operations a second
    memory: int  # bytes
    bandwidth: float  # of the memory, bytes/s
    interconnect: float  # bytes/s, one direction
    kinds: tuple[str, ...]  # device_kind, as jax names it
    per_host: int  # chips of one machine in a slice of several
    axes: int  # of a slice's torus; 0 for GPUs, which are counted
    cores: int = 1  # by which accelerator types count


CHIPS = {
    "v4": Chip(275 * TERA, 32 * GIB, 1228 * GB, 300 * GB, ("TPU v4",), 4, 3, 2),
    "v5e": Chip(197 * TERA, 16 * GIB, 819 * GB, 200 * GB, ("TPU v5 lite", "TPU v5e"), 4, 2),
    "v5p": Chip(459 * TERA, 95 * GIB, 2765 * GB, 600 * GB, ("TPU v5", "TPU v5p"), 4, 3, 2),
    "v6e": Chip(918 * TERA, 32 * GIB, 1600 * GB, 400 * GB, ("TPU v6 lite", "TPU v6e"), 4, 2),
    "tpu7x": Chip(2307 * TERA, 192 * GIB, 7380 * GB, 600 * GB, ("TPU7x", "TPU v7x"), 4, 3),
    "a100": Chip(312 * TERA, 40 * GIB, 1555 * GB, 300 * GB, ("NVIDIA A100-SXM4-40GB",), 8, 0),
    "a100-80": Chip(312 * TERA, 80 * GIB, 2039 * GB, 300 * GB, ("NVIDIA A100-SXM4-80GB",), 8, 0),
    "h100": Chip(989 * TERA, 80 * GIB, 3350 * GB, 450 * GB, ("NVIDIA H100 80GB HBM3",), 8, 0),
    "h200": Chip(989 * TERA, 141 * GIB, 4800 * GB, 450 * GB, ("NVIDIA H200",), 8, 0),
    "b200": Chip(2250 * TERA, 180 * GIB, 8000 * GB, 900 * GB, ("NVIDIA B200",), 8, 0),
}
ALIASES = {"v5litepod": "v5e", "gpu": "h100"}

FLAT = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))  # every slice of v5e and v6e
SMALL_CUBES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))  # beside x <= y <= z, multiples of 4, up to 16 x 16 x 24


class Slice(NamedTuple):
    """Chips that train one network together; `chip` is a key of CHIPS."""

    chip: str
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def hosts(self) -> int:
        single = 8 if self.shape == (2, 4) else CHIPS[self.chip].per_host  # v5e-8 and v6e-8 are one machine too
        return math.ceil(self.chips / single)

    def __str__(self):
        return f"{self.chip}:{'x'.join(map(str, self.shape))}"


def parse_slice(text: str) -> Slice:
    """'v5e:4x4', 'v5e-16' (chips), 'v5p-256' (cores, two a chip), 'h100:8', or 'gpu', which is one H100.

    Raises ValueError, with the choices, for a chip or a shape that does not exist.
    """
    name, colon, rest = text.lower().partition(":")
    size = ""
    if not colon and name not in CHIPS and "-" in name:
        name, _, size = name.rpartition("-")
    name = ALIASES.get(name, name)
    if name not in CHIPS:
        raise ValueError(f"--topology={text}: no chip {name!r}; choose from {', '.join(CHIPS)}, gpu, cpu")
    chip = CHIPS[name]
    try:
        shape = tuple(map(int, rest.split("x"))) if colon else shape_of(chip, int(size or 1))
    except ValueError:
        raise ValueError(f"--topology={text} is not of the form {form(name)}") from None
    if not exists(chip, shape):
        raise ValueError(f"--topology={text}: there is no such slice of {name}; {choices(chip)}")
    return Slice(name, shape)


def shape_of(chip: Chip, count: int) -> tuple[int, ...]:
    """The torus of an accelerator type: as near to a square or a cube as a power of two comes."""
    chips, odd = divmod(count, chip.cores)
    if chip.axes == 0:
        return (count,)
    exponent = chips.bit_length() - 1
    if odd or 2**exponent != chips:
        return (0,)
    shape = tuple(2 ** ((exponent + i) // chip.axes) for i in range(chip.axes))
    return (2, 2, 1) if shape == (1, 2, 2) else shape


def exists(chip: Chip, shape: tuple[int, ...]) -> bool:
    if chip.axes == 0:
        return len(shape) == 1 and shape[0] >= 1
    if chip.axes == 2:
        return shape in FLAT
    cube = len(shape) == 3 and list(shape) == sorted(shape) and all(side % 4 == 0 and side for side in shape)
    return shape in SMALL_CUBES or (cube and shape[1] <= 16 and shape[2] <= 24)


def form(name: str) -> str:
    shape = {0: "8", 2: "4x4", 3: "4x4x4"}[CHIPS[name].axes]
    count = math.prod(map(int, shape.split("x"))) * CHIPS[name].cores
    return f"{name}:{shape} or {name}-{count}"


def choices(chip: Chip) -> str:
    if chip.axes == 0:
        return "give a number of GPUs"
    known = ", ".join("x".join(map(str, shape)) for shape in (FLAT if chip.axes == 2 else SMALL_CUBES))
    return known if chip.axes == 2 else f"{known}, or three multiples of 4 in rising order up to 16x16x24"


def chip_of(device_kind: str) -> Chip | None:
    """The chip that jax names so, or None if the table has it not (a CPU, a chip of a kind not listed)."""
    return next((chip for chip in CHIPS.values() if device_kind in chip.kinds), None)
