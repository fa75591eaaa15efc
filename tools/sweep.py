"""Run the cells that a config's sweep() yields, so many at a time, and write one table over them.

    python -m tools.sweep --config=configs/digits.py --workdir=runs/sweep --max_parallel=2
    python -m tools.sweep --config=configs/digits.py --workdir=runs/sweep --vmap
    python -m tools.sweep --config=configs/digits.py --workdir=gs://BUCKET/sweep --launcher=tpu --max_parallel=4 \\
        --launch='--accelerator=v5e-4 --zone=Z --project=P --spot'

Killed and started again, it goes on: a cell with done.json is done, others resume from their checkpoints. The workdir
gets cells/NAME, sweep.csv and sweep.png, best first, and sweep.jsonl, every start and end. docs/sweeps.md.
"""

import contextlib
import os
import shlex
import sys

from absl import flags, logging
from etils import epath
from ml_collections import config_flags

import workdir as records
from tools.sweeps import pool, table
from tools.sweeps.cells import Cell, digest, is_done, read_cells
from tools.sweeps.devices import Devices, share, visible
from training.checkpoint import absolute
from training.interrupt import Interrupted

LAUNCHERS = ("local", "slurm", "tpu", "tpu_vm", "gce")  # those that get each cell machines of its own, and see it end


def parse_flags(argv: list[str]) -> flags.FlagValues:
    """Raises ValueError or flags.Error for what is unknown or lacks."""
    argv = list(argv)
    found = flags.FlagValues()  # its own: several tools in one process keep their names
    add = {"flag_values": found}
    about = "A config with a sweep(): FILE.py[:word,...]; --config.KEY=VALUE is for every cell."
    config_flags.DEFINE_config_file("config", None, about, lock_config=True, sys_argv=argv, **add)
    flags.mark_flag_as_required("config", **add)
    flags.DEFINE_string("workdir", None, "Where the cells lie.", required=True, **add)
    flags.DEFINE_enum("launcher", "local", LAUNCHERS, "Where each cell runs: tools/launch.py.", **add)
    flags.DEFINE_string("launch", "", "Flags for tools.launch, which then gets each cell its machines.", **add)
    flags.DEFINE_integer("max_parallel", 1, "Cells at a time.", lower_bound=1, **add)
    flags.DEFINE_integer("devices_per_run", 0, "local: each run's own; 0: all share all.", lower_bound=0, **add)
    flags.DEFINE_bool("vmap", False, "local: seeds and learning rates of one shape in one program.", **add)
    flags.DEFINE_string("metric", "validation_loss", "By which cells are ordered; default that of the average.", **add)
    flags.DEFINE_enum("direction", "lower", list(table.DIRECTIONS), "Which is better.", **add)
    flags.DEFINE_bool("table_only", False, "Write the table and run nothing.", **add)
    flags.DEFINE_bool("dry_run", False, "Print the commands.", **add)
    if "--help" in argv:
        print(__doc__, found.get_help(), sep="\n")
        sys.exit()
    try:
        unknown = found(argv)[1:]
    except (AttributeError, KeyError) as error:
        raise ValueError(records.unknown_flag(argv) or error) from None
    if unknown:
        raise ValueError(f"unexpected argument {unknown[0]!r}; every option is a flag, --name=value")
    away = found.launcher != "local"
    for name in ("vmap", "devices_per_run"):
        if away and found[name].value:
            raise ValueError(f"--{name} is for --launcher=local; --launcher={found.launcher} gives machines whole")
    if found.launch and not away:
        raise ValueError("--launch has flags for tools.launch: name a --launcher beside local")
    return found


def command(options: flags.FlagValues, cell: Cell) -> list[str]:
    """What runs a cell here, or gets it machines and waits for it there."""
    config = options["config"]
    run = [f"--config={config_flags.get_config_filename(config)}", f"--workdir={os.fspath(cell.folder)}"]
    everywhere = [f"--config.{key}={value}" for key, value in config_flags.get_override_values(config).items()]
    if options.launcher == "local":
        return [sys.executable, "main.py", "--nodistributed", *run, *everywhere, *cell.flags()]
    name = f"sweep-{digest({'workdir': options.workdir})}-{digest(records.flatten(cell.config))}"
    how = [f"--backend={options.launcher}", f"--name={name}", *shlex.split(options.launch), "--delete_after"]
    return [sys.executable, "-m", "tools.launch", "watch", *how, *run, "--", *everywhere, *cell.flags()]


def run(options: flags.FlagValues, cells: list[Cell], own: list[Devices], log) -> dict:
    """{name: what went wrong}, {} where all is well."""
    if options.vmap:
        return run_vmapped(cells, log)
    statuses = pool.run_cells(cells, lambda cell: command(options, cell), own, log)
    return {cell.name: f"exit status {statuses[cell.name]}" for cell in cells if not is_done(cell)}


def shares(options: flags.FlagValues) -> list[Devices]:
    """The devices of each run at a time."""
    if options.launcher == "local":
        return share(visible(), options.max_parallel, options.devices_per_run)
    return [AWAY] * options.max_parallel


AWAY = Devices("machine of its own", ())


def run_vmapped(cells: list[Cell], log) -> dict:
    import jax

    from tools.sweeps import vmapped

    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.path.expanduser("~/.cache/langevin")
    jax.config.update("jax_compilation_cache_dir", cache)
    logging.set_verbosity(logging.ERROR)  # a dozen cells in one voice; Orbax warns of its own options
    wrong = {}
    for together in vmapped.groups([cell for cell in cells if not is_done(cell)]):
        for cell in together:
            pool.note(log, cell, "start")
        wrong |= vmapped.train_together(together)
        for cell in together:
            pool.note(log, cell, wrong.get(cell.name, "done"))
    return wrong


def write_table(options: flags.FlagValues, cells: list[Cell], workdir: epath.Path) -> None:
    rows = table.rank(cells, options.metric, options.direction)
    table.write(rows, workdir, options.metric, options.direction)
    best, done = rows[0], sum(row.done for row in rows)
    print(f"{done} of {len(rows)} cells done: {workdir / 'sweep.csv'}, {workdir / 'sweep.png'}")
    if best.mean is not None:
        spread = f" +- {best.deviation:.4g} over {best.seeds} seeds" if best.deviation is not None else ""
        print(f"best by {options.metric}: {best.cell.name}: {best.mean:.6g}{spread}")


def sweep(options: flags.FlagValues) -> dict:
    """Everything; {name: what went wrong}. Raises ValueError before anything is run, Interrupted after all saved."""
    workdir = epath.Path(absolute(options.workdir))
    path = config_flags.get_config_filename(options["config"]).partition(":")[0]
    cells = read_cells(path, options.config, workdir)
    if options.dry_run:
        print(*(shlex.join(command(options, cell)) for cell in cells), sep="\n")
        return {}
    for cell in cells:
        is_done(cell)  # a damaged folder is refused before anything starts
    own = shares(options)
    with records.lock(workdir) or contextlib.nullcontext():  # a bucket has none
        try:
            return {} if options.table_only else run(options, cells, own, workdir / "sweep.jsonl")
        finally:
            write_table(options, cells, workdir)


def main(argv: list[str]) -> None:
    try:
        wrong = sweep(parse_flags(argv))
    except Interrupted as interrupted:
        print(f"{interrupted}: every run has saved or had not begun; the same command goes on", file=sys.stderr)
        sys.exit(128 + interrupted.signum)
    except (flags.Error, ValueError, OSError) as error:
        lines = str(error).strip().splitlines()
        # ml_collections quotes the whole traceback of a config file's mistake: its last line is the mistake.
        text = lines[-1].removeprefix("ValueError: ") if "Traceback" in str(error) else " ".join(str(error).split())
        print("error:", text, file=sys.stderr)
        sys.exit(2)
    if wrong:
        listed = "; ".join(f"{name}: {why}" for name, why in wrong.items())
        print(f"error: {len(wrong)} cells are not done ({listed}); see output.log in their folders", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv)
