"""From a config's sweep() to cells: each a config, a name that its overrides give it, and a folder."""

import copy
import hashlib
import importlib.util
import json
import re
from collections.abc import Iterable
from typing import NamedTuple

from etils import epath
from ml_collections import ConfigDict

import workdir as records

READABLE = 60  # characters of a name before its hash


class Cell(NamedTuple):
    """One run of a sweep."""

    name: str
    overrides: dict  # dotted config keys
    config: ConfigDict
    folder: epath.Path

    def flags(self) -> list[str]:
        """The overrides as main.py takes them."""
        return [f"--config.{key}={value}" for key, value in self.overrides.items()]


def read_cells(path: str, config: ConfigDict, workdir: epath.PathLike) -> list[Cell]:
    """The cells under `workdir`: `config` with what sweep() of file `path` yields; ValueError where it cannot be."""
    module = load(path)
    if not hasattr(module, "sweep"):
        raise ValueError(f"{path} has no sweep(): write a generator of overrides, such as yield {{'optim.lr': 1e-3}}")
    cells = [make_cell(copy.deepcopy(config), overrides, epath.Path(workdir)) for overrides in module.sweep()]
    if not cells:
        raise ValueError(f"{path}: sweep() yields nothing")
    check_distinct(cells)
    return cells


def load(path: str):
    spec = importlib.util.spec_from_file_location("swept_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_cell(config: ConfigDict, overrides: dict, workdir: epath.Path) -> Cell:
    known = records.flatten(config)
    for key in overrides:
        if key not in known:
            raise ValueError(f"sweep(): {records.unknown_key(key, known)}")
    try:
        config.update_from_flattened_dict(overrides)
    except (TypeError, ValueError) as error:
        raise ValueError(f"sweep(): {overrides}: {error}") from None
    name = name_of(overrides)
    return Cell(name, overrides, config, workdir / "cells" / name)


def name_of(overrides: dict) -> str:
    """'lr=0.002_seed=1_d2f0c1a7': stable, whatever the order of keys and the other cells; safe in paths and shells."""
    short = [key.rpartition(".")[2] for key in overrides]
    names = short if len(set(short)) == len(short) else list(overrides)
    words = sorted(f"{name}={value}" for name, value in zip(names, overrides.values(), strict=True))
    readable = re.sub(r"[^\w.=+-]+", "-", "_".join(words))[:READABLE]
    return f"{readable or 'default'}_{digest(overrides)}"


def digest(overrides: dict) -> str:
    return hashlib.sha256(json.dumps(overrides, sort_keys=True).encode()).hexdigest()[:8]


def check_distinct(cells: Iterable[Cell]) -> None:
    """Raises ValueError for two cells that are one config, in whatever words."""
    seen = {}
    for cell in cells:
        text = json.dumps(records.flatten(cell.config), sort_keys=True)
        if text in seen:
            raise ValueError(f"sweep(): {seen[text].overrides} and {cell.overrides} are the same run; drop one")
        seen[text] = cell


def is_done(cell: Cell) -> bool:
    """Whether the cell's run is complete. Raises ValueError, naming the cell, where its folder is not this run's."""
    try:
        config, done = cell.folder / "config.json", cell.folder / "done.json"
        if config.exists():
            records.check_resume(cell.config, records.read_config(cell.folder), allow=False)
        if not done.exists():
            return False
        steps, asked = records.read_json(done)["steps"], cell.config.train.steps
        if steps > asked:
            raise ValueError(f"it has trained to step {steps}, past train.steps={asked}")
        return steps == asked
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"cell {cell.name} is damaged or another run's ({error}); delete {cell.folder}, or use another --workdir"
        ) from None
