"""--mode=edit: image files in, image files out, by any trained run."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging
from etils import epath

from experiment import build
from modes import pictures
from modes.edit_tasks import PER_FILE, TAKES, WHOLE, Job, PerFile, given_of, output_names, say_failed, written
from modes.model import Model
from modes.weights import asked_settings, provenance, restored
from training.checkpoint import absolute
from training.metrics import write_json


def edit(config, flags) -> None:
    """Edits --input as --task says into --out: pictures, and settings.json with what each depends on."""
    check_flags(flags)
    if "stages" in config:
        raise ValueError("an edit takes one model: give the --workdir of a stage of the cascade, without --config")
    workdir = epath.Path(absolute(flags.workdir))
    experiment = build(config)
    settings = asked_settings(config, flags)
    model = Model(config, experiment, restored(config, experiment, workdir, flags), settings)
    _ = model.edits  # refused before anything is written
    edit_files(model, flags)


def edit_files(model: Model, flags) -> None:
    """A file that cannot be edited is reported in one line and the rest goes on; in the end that is a ValueError."""
    given = given_of(flags.label, flags.prompt)
    out = epath.Path(absolute(flags.out or f"{flags.workdir}/edits/{flags.task}"))
    check_out(flags.input, out)
    job, experiment, settings = Job(model, given, flags, out), model.experiment, model.settings
    facts = provenance(model.config, experiment, model.weights, settings, flags)
    facts |= {"task": flags.task, **given}
    if flags.task in WHOLE:
        result = WHOLE[flags.task](job)
        write_json(out / "settings.json", facts | result)
        logging.info("%s: %s", flags.task, out)
        refuse_failed(result.get("failed"), out)
        return
    task, paths = PER_FILE[flags.task], pictures.listing(flags.input)
    how = task.edit(job)
    calls, derivatives = model.edits.calls(settings, how)
    facts |= {**how._asdict(), "network_calls": calls, "derivatives_a_call": derivatives}
    done, failed = [], {}
    for entries in edited(job, task, paths, failed):
        done += entries
        write_json(out / "settings.json", facts | {"images": done, "failed": failed})
    logging.info("%d of %d images edited: %s", len(done), len(paths), out)
    refuse_failed(failed, out)


def check_out(given: str | None, out) -> None:
    """Raises ValueError where results would lie among the inputs, be taken for inputs next time, or replace them."""
    if given is None:
        return
    path, out = Path(given).expanduser().resolve(), Path(out).resolve()
    if out == (path if path.is_dir() else path.parent) or path.is_dir() and path in out.parents:
        raise ValueError(f"--out={out} is in the folder of --input={given}: give another")


def refuse_failed(failed: dict[str, str] | None, out: epath.Path) -> None:
    if failed:
        raise ValueError(f"{len(failed)} files could not be edited, as said above; what could is in {out}")


def edited(job: Job, task: PerFile, paths: list[Path], failed: dict[str, str]) -> Iterator[list[dict]]:
    """Edits the files in batches of one shape, writes the results and yields their entries; fills `failed`."""
    size = min(job.model.config.sampling.batch_size, len(paths))
    names = output_names(paths)
    for first in range(0, len(paths), size):
        loaded = {}
        for i in range(first, min(first + size, len(paths))):
            try:
                loaded[i] = task.load(job, paths[i], pictures.read(paths[i]))
            except ValueError as error:
                say_failed(paths[i], error, failed)
        if not loaded:
            yield []
            continue
        rows = [*loaded.values()]
        rows += rows[-1:] * (size - len(rows))  # the shape of every batch: one compilation
        seeds = job.flags.seed + np.array([*loaded] + [max(loaded)] * (size - len(loaded)))
        images, numbers = task.run(job, seeds, **{name: np.stack([row[name] for row in rows]) for name in rows[0]})
        yield [
            written(job, names[i], {suffix: each[row] for suffix, each in images.items()})
            | {"input": str(paths[i]), "seed": int(seeds[row])}
            | {name: float(values[row]) for name, values in numbers.items()}
            for row, i in enumerate(loaded)
        ]
        logging.info("%d of %d", min(first + size, len(paths)), len(paths))


OF_A_TASK = ("input", "mask", "box", "method", "strength", "source", "num", "factor")


def check_flags(flags) -> None:
    """Raises ValueError for flags that the task does not take, or lacks."""
    if flags.task not in TAKES:
        raise ValueError(f"--task={flags.task} is unknown; choose from {', '.join(TAKES)}")
    taken = [name.rstrip("*") for name in TAKES[flags.task]]
    for name in OF_A_TASK:
        if flags[name].present and name not in taken:
            raise ValueError(f"--{name} says nothing to --task={flags.task}, which takes {', '.join(taken) or 'none'}")
    for name in TAKES[flags.task]:
        if name.endswith("*") and not flags[name[:-1]].present:
            raise ValueError(f"--task={flags.task} needs --{name[:-1]}")
    if flags.task == "inpaint" and bool(flags.mask) == bool(flags.box):
        raise ValueError("--task=inpaint takes one of --mask=FILE or FOLDER, and --box=top,left,height,width")
    if flags.box and not (len(flags.box) == 4 and all(part.strip().isdecimal() for part in flags.box)):
        raise ValueError(f"--box={','.join(flags.box)} must be four numbers: top, left, height, width")
    if flags.strength is not None and not 0 < flags.strength <= 1:
        raise ValueError(f"--strength={flags.strength} must be in (0, 1]")
