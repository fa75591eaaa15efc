"""What a config needs of a slice before it is rented: parameters, FLOPs, memory, time, and what to change.

    python -m tools.plan --config=configs/cifar10.py --topology=v5e:2x2
    python -m tools.plan --config=configs/imagenet64.py --topology=v5e-16 --config.mesh.fsdp=16
    python -m tools.plan --config=configs/cifar10.py --topology=v5e:2x2 --compile

It takes seconds and compiles nothing. With --compile the real train step is compiled for that TPU slice, on this
machine, and what was estimated is known. No data is opened, and no chip is touched.
"""

import os
import sys
import time

os.environ["JAX_PLATFORMS"] = "cpu"  # a plan must not take the accelerator of a training beside it

from absl import flags, logging  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from tools import ahead  # noqa: E402
from tools.command import read_flags  # noqa: E402
from tools.estimate import ROOM, USUAL, Estimate, estimate, times  # noqa: E402
from training.chips import CHIPS, GIB, Slice, parse_slice  # noqa: E402
from training.sharding import AXES, mesh_sizes  # noqa: E402
from workdir import unknown_flag  # noqa: E402

CHANGES = (  # tried one on top of the other until it fits
    ("model.dtype", lambda config, chips: "bfloat16"),
    ("mesh.fsdp", lambda config, chips: chips // config.mesh.tensor),
    ("model.remat", lambda config, chips: "blocks"),
    *[("optim.accumulate", lambda config, chips, k=k: k * config.optim.accumulate) for k in (2, 2, 2)],
)


def define(add: dict) -> None:
    config_flags.DEFINE_config_file("config", None, "FILE.py[:word[,word][,key=value]]", **add)
    flags.DEFINE_string("topology", None, "v5e:4x4, v5e-16, v5p-256, v6e:2x4, h100:8, gpu, cpu.", required=True, **add)
    flags.DEFINE_bool("compile", False, "Compile the train step for the slice, a TPU's, without any TPU.", **add)
    flags.DEFINE_float("compile_limit", 900.0, "Seconds that a compilation may take.", lower_bound=1, **add)
    flags.DEFINE_string("compile_cache", "~/.cache/langevin/plans", "Folder of what was compiled before.", **add)
    flags.mark_flag_as_required("config", **add)


def parse_flags(argv: list[str]) -> flags.FlagValues:
    """Raises ValueError, flags.Error or AttributeError (a config key) for what is unknown or lacks."""
    return read_flags(argv, __doc__, define)


def report(config, options) -> list[str]:
    """The plan, line by line; '~' marks what is estimated."""
    slice_ = None if options.topology == "cpu" else parse_slice(options.topology)
    began = time.perf_counter()
    found = estimate(config, slice_.chips if slice_ else 1)
    lines = [*head(config, slice_), *network(config, found)]
    room = CHIPS[slice_.chip].memory if slice_ else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines += memory(found, room)
    if slice_:
        lines += duration(config, found, slice_)
        lines += [] if fits(found, room) else suggestions(config, slice_)
    lines += [
        f"estimated in {time.perf_counter() - began:.0f} s, nothing compiled; ~ is an estimate, all else is known"
    ]
    if options.compile:
        if slice_ is None:
            raise ValueError("--compile works for TPU slices alone; --topology=cpu compiles where it runs")
        cache = os.path.expanduser(options.compile_cache)
        lines += known(ahead.compiled(config, slice_, options.compile_limit, cache), found, slice_, config)
    return lines


def head(config, slice_: Slice | None) -> list[str]:
    if slice_ is None:
        return ["this machine's CPU: one device"]
    chip = CHIPS[slice_.chip]
    sizes = mesh_sizes(config.mesh.to_dict(), slice_.chips)
    return [
        f"{slice_}: {slice_.chips} chips on {slice_.hosts} host{'s' * (slice_.hosts > 1)}, each "
        f"of {chip.memory / GIB:.0f} GiB and {chip.flops / 1e12:.0f} TFLOP/s (bfloat16) as published",
        f"mesh: {', '.join(f'{axis} {sizes[axis]}' for axis in AXES)}; batch {config.train.batch_size}, "
        f"{config.train.batch_size // (sizes['data'] * sizes['fsdp'] * config.optim.accumulate)} a chip at a time; "
        f"{config.model.dtype}",
    ]


def network(config, found: Estimate) -> list[str]:
    each = found.operations / config.train.batch_size
    return [
        f"parameters   {found.parameters:,}",
        f"model FLOPs  {each / 1e9:.4g} G an image, {found.operations / 1e12:.4g} T a step (forward and backward; "
        "matrix products and convolutions)",
    ]


def memory(found: Estimate, room: int) -> list[str]:
    verdict = "fits" if fits(found, room) else "does NOT fit"
    state = f"state, {found.averages} average{'s' * (found.averages > 1)}"
    parts = {state: found.state, "frozen": found.frozen, "gathered": found.gathered, "~gradients": found.gradients}
    parts |= {"~activations": found.activations}
    return [
        "memory a chip  " + "  ".join(f"{name} {size(amount)}" for name, amount in parts.items() if amount),
        f"               ~{size(found.memory)} of {size(room)}, of which {ROOM:.0%} can be used: {verdict}",
    ]


def fits(found: Estimate, room: int) -> bool:
    return found.memory <= ROOM * room


def duration(config, found: Estimate, slice_: Slice) -> list[str]:
    bounds = times(found, slice_)
    usual = max(found.operations / (USUAL * CHIPS[slice_.chip].flops * slice_.chips), *bounds.values())
    return [
        f"least time a step  compute {milli(bounds['compute'])}  ~memory {milli(bounds['memory'])}  "
        f"~interconnect {milli(bounds['interconnect'])}",
        f"  at the peaks      ~{pace(config, max(bounds.values()), slice_)}",
        f"  at {USUAL:.0%} of the FLOP/s peak (assumed)  ~{pace(config, usual, slice_)}",
    ]


def pace(config, seconds: float, slice_: Slice) -> str:
    total = seconds * config.train.steps / 3600
    return (
        f"{milli(seconds)} a step, {config.train.batch_size / seconds:,.0f} images/s; {config.train.steps:,} steps: "
        f"{total / 24:,.1f} days, {total * slice_.chips:,.0f} chip-hours"
    )


def suggestions(config, slice_: Slice) -> list[str]:
    """The first of CHANGES, one on top of the other, with which it fits; what each leaves is said."""
    config, lines = config.copy_and_resolve_references(), []
    for key, change in CHANGES:
        section, name = key.split(".")
        value = change(config, slice_.chips)
        if config[section][name] == value:
            continue
        old = config.to_dict()
        config[section][name] = value
        try:
            found = estimate(config, slice_.chips)
        except ValueError:  # does not divide here
            config.update(old)
            continue
        lines.append(f"  with --config.{key}={value}: ~{size(found.memory)}")
        if fits(found, CHIPS[slice_.chip].memory):
            return ["to make it fit, together:", *lines]
    return ["it does not fit even with these, together; take more chips, or chips with more memory:", *lines]


def known(facts: dict, found: Estimate, slice_: Slice, config) -> list[str]:
    """What the compiler says, beside what was estimated."""
    chip, held = CHIPS[slice_.chip], facts["memory"]
    moved = "  ".join(f"{kind} {one['count']} of {size(one['bytes'])}" for kind, one in facts["collectives"].items())
    sent_time = sum(one["bytes"] for one in facts["collectives"].values()) / chip.interconnect
    bounds = times(found, slice_) | {"memory": facts["hbm_bytes"] / chip.bandwidth, "interconnect": sent_time}
    versions = " ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return [
        f"compiled for {slice_} in {facts['compile_seconds']:.0f} s (lowered in {facts['lower_seconds']:.0f} s; "
        f"{versions}):",
        "memory a chip  " + "  ".join(f"{name} {size(amount)}" for name, amount in held.items())
        + f"  (peak over {size(chip.memory)}: {held['peak'] / chip.memory:.0%})",
        f"to and from HBM {size(facts['hbm_bytes'])} (estimated {size(found.traffic)}; bytes accessed, on-chip memory "
        f"included: {size(facts['bytes_accessed'])})  compiler's FLOPs "
        f"{facts['compiler_flops'] / 1e12:.3g} T a chip (model's {found.operations / slice_.chips / 1e12:.3g} T, "
        f"{found.inside / slice_.chips / 1e12:.3g} T without borders)"
        + (f"; a loop's body counts once in these two, turns {facts['loops']}" if facts["loops"] else ""),
        f"collectives a step  {moved or 'none'}",
        "least time a step  " + "  ".join(f"{what} {milli(seconds)}" for what, seconds in bounds.items()),
        f"  at the peaks      {pace(config, max(bounds.values()), slice_)}",
    ]  # fmt: skip


def size(amount: float) -> str:
    """Bytes, in the unit that fits."""
    for unit in ("B", "KiB", "MiB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} {unit}"
        amount /= 1024
    return f"{amount:.2f} GiB"


def milli(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def main(argv: list[str]) -> None:
    try:
        options = parse_flags(argv)
        print(*report(options.config, options), sep="\n")
    except (AttributeError, KeyError) as error:
        fail(unknown_flag(argv) or error)
    except (flags.Error, ValueError, TypeError, OSError) as error:
        fail(error)


def fail(error) -> None:
    print("error:", " ".join(str(error).split()), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)
    main(sys.argv)
