"""A Hugging Face folder's weights straight into sharded arrays: each process reads the parts that its devices hold.

    found = tensors("$DATA/t5-v1_1-xxl")                      # names and places; no number is read
    params = load(found, t5.PUBLISHED, t5.abstract_params(size), shardings, dtype=jnp.bfloat16)

FOLDER holds config.json and model.safetensors, or model.safetensors.index.json and the files that it names.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from models import safetensors
from models.safetensors import Stored

Shardings = Callable[[str, tuple[int, ...]], jax.sharding.Sharding]


class Piece(NamedTuple):
    """The tensor, or with {} in its name the tensors of all blocks, that a parameter is made of."""

    name: str
    transposed: bool = False  # torch's linear layers are [out, in]
    also: str | None = None  # a second name: either will do


def read_config(folder: str) -> dict:
    """The folder's config.json."""
    path = Path(folder).expanduser() / "config.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing; give a Hugging Face folder, with config.json and the weights")
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None


def tensors(folder: str) -> dict[str, Stored]:
    """name -> where it lies, over all of the folder's files. ValueError where one is missing or damaged."""
    root = Path(folder).expanduser()
    whole, index = root / "model.safetensors", root / "model.safetensors.index.json"
    if whole.is_file():
        return safetensors.tensors(str(whole))
    if not index.is_file():
        convert = any(root.glob("pytorch_model*.bin"))
        hint = f"run python -m tools.convert_torch --input={folder}" if convert else "give the folder with the weights"
        raise ValueError(f"{root} holds no model.safetensors, nor model.safetensors.index.json; {hint}")
    places = json.loads(index.read_text())["weight_map"]
    files = {name: safetensors.tensors(str(_inside(root, name))) for name in sorted(set(places.values()))}
    lost = [name for name, file in places.items() if name not in files[file]]
    if lost:
        raise ValueError(f"{root}: {lost[0]} is not in {places[lost[0]]}, where {index.name} has it; fetch it again")
    return {name: files[file][name] for name, file in places.items()}


def _inside(root, name):
    if Path(name).name != name or not (root / name).is_file():
        raise ValueError(f"{root / name} is missing, and the index names it; fetch it again")
    return root / name


def check(found: dict[str, Stored], pieces: dict[str, Piece], shapes: dict, others: Iterable[str] = ()) -> dict:
    """path -> the stored tensors of each parameter. ValueError naming what is missing, surplus or misshapen.

    shapes: path -> the parameter's shape. others: prefixes of names that belong to something else.
    """
    chosen, misshapen, missing = {}, [], []
    for path, piece in pieces.items():
        names, expected = _names(found, piece, shapes[path])
        for name in names:
            if name not in found:
                missing.append(name)
            elif found[name].shape != expected:
                misshapen.append(f"{name} is {found[name].shape}, not {expected}")
        chosen[path] = names
    known = {name for names in chosen.values() for name in names} | {piece.also for piece in pieces.values()}
    surplus = [name for name in found if name not in known and not name.startswith(tuple(others))]
    problems = {"lack": missing, "have a surplus": surplus, "have another shape": misshapen}
    if said := [f"{what} {', '.join(sorted(names)[:3])} ({len(names)})" for what, names in problems.items() if names]:
        raise ValueError(f"the weights {'; '.join(said)}: they are of another model or size")
    return {path: [found[name] for name in names] for path, names in chosen.items()}


def _names(found, piece, shape):
    """(the names of a parameter's tensors, the shape that each must have)."""
    stacked = "{}" in piece.name
    name = piece.also if piece.also in found and piece.name not in found else piece.name
    one = shape[1:] if stacked else shape
    return [name.format(i) for i in range(shape[0] if stacked else 1)], one[::-1] if piece.transposed else one


def load(
    found: dict[str, Stored],
    pieces: dict[str, Piece],
    abstract: Any,
    shardings: Shardings | None = None,
    dtype: Any = np.float32,
    others: Iterable[str] = (),
) -> Any:
    """The parameters, of the tree of `abstract` (shapes), as arrays of `dtype` laid out by shardings(name, shape).

    Without shardings they are whole on the first device, and follow what else a program is given. Only the parts that
    this process's devices hold are read, a parameter at a time. Raises ValueError as `check` does.
    """
    shapes = {path: leaf.shape for path, leaf in flatten_dict(abstract, sep="/").items()}
    stored = check(found, pieces, shapes, others)

    def array(path):
        part = _part(stored[path], pieces[path], dtype)
        if shardings is None:
            return jnp.asarray(part((slice(None),) * len(shapes[path])))
        return jax.make_array_from_callback(shapes[path], shardings(path, shapes[path]), part)

    return unflatten_dict({path: array(path) for path in shapes}, sep="/")


def _part(stored, piece, dtype):
    """index into the parameter -> that part of it."""
    stacked = "{}" in piece.name

    def one(tensor, index):
        if not piece.transposed:
            return tensor.read(index).astype(dtype)
        return tensor.read(index[::-1]).T.astype(dtype)

    def part(index):
        if not stacked:
            return one(stored[0], index)
        return np.stack([one(tensor, index[1:]) for tensor in stored[index[0]]])

    return part
