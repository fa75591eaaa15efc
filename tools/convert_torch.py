"""A Hugging Face folder's pytorch_model.bin -> model.safetensors, once; what is in the .bin is not run.

    python -m tools.convert_torch --input=FOLDER
    python -m tools.convert_torch --input=FOLDER --output=OTHER --keep='shared|encoder' --dtype=bfloat16 --sha256=...

Sharded files (pytorch_model.bin.index.json) become sharded files. Memory holds one tensor at a time. Config and
tokenizer are copied where --output is another folder. A file that is there already is kept, so that a killed
conversion goes on.
"""

import json
import math
import re
import shutil
import sys
from pathlib import Path

import numpy as np
from absl import flags

from models import safetensors, torch_files
from tools import command

WHOLE, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
BESIDE = ("*.json", "spiece.model", "*.txt")  # config and tokenizer


def define(add: dict) -> None:
    flags.DEFINE_string("input", None, "The folder with pytorch_model.bin.", required=True, **add)
    flags.DEFINE_string("output", None, "Where to write; default the same folder.", **add)
    flags.DEFINE_string("keep", "", "A regular expression, searched in tensor names; default all.", **add)
    flags.DEFINE_enum("dtype", "", ["", "float32", "bfloat16"], "Default: as stored.", **add)
    flags.DEFINE_string("sha256", None, "That pytorch_model.bin must have.", **add)


def kept(tensors: dict, keep: str, dtype: str) -> dict:
    """The tensors whose names match, of `dtype` where they are floating."""

    def cast(lazy):
        if not dtype or np.dtype(lazy.dtype).kind not in "fV":  # V: bfloat16
            return lazy
        return lazy._replace(dtype=dtype, read=lambda: lazy.read().astype(dtype))

    return {name: cast(lazy) for name, lazy in tensors.items() if re.search(keep, name)}


def convert_file(source: Path, target: Path, keep: str, dtype: str, sha256: str | None = None) -> int:
    """Bytes of the numbers in the target; 0 where it would hold none, and is not written."""
    with torch_files.opened(source, sha256) as tensors:
        found = kept(tensors, keep, dtype)
        if target.exists():
            check_same(target, found)
        elif found:
            safetensors.write(str(target), found)
        return sum(np.dtype(lazy.dtype).itemsize * math.prod(lazy.shape) for lazy in found.values())


def check_same(target: Path, found: dict) -> None:
    """ValueError where a file that is there already was converted with other options."""
    before = {name: (tensor.dtype, tensor.shape) for name, tensor in safetensors.tensors(str(target)).items()}
    if before != {name: (lazy.dtype, lazy.shape) for name, lazy in found.items()}:
        raise ValueError(f"{target} is there already, with other tensors; remove it, or name another --output")


def convert(source: str, output: str, keep: str = "", dtype: str = "", sha256: str | None = None) -> int:
    """Convert a folder; bytes of the numbers. ValueError where it has no weights of torch's, or one is refused."""
    source, output = Path(source).expanduser(), Path(output).expanduser()
    check_pattern(keep)
    output.mkdir(parents=True, exist_ok=True)
    if (source / INDEX).is_file():
        total = convert_shards(source, output, keep, dtype)
    elif (source / WHOLE).is_file():
        total = convert_file(source / WHOLE, output / "model.safetensors", keep, dtype, sha256)
    else:
        raise ValueError(f"{source} holds neither {WHOLE} nor {INDEX}")
    if not any(output.glob("model*.safetensors")):
        raise ValueError(f"--keep={keep!r} matches no tensor of {source}")
    copy_beside(source, output)
    return total


def check_pattern(keep: str) -> None:
    try:
        re.compile(keep)
    except re.error as error:
        raise ValueError(f"--keep={keep!r} is no regular expression: {error}") from None


def convert_shards(source: Path, output: Path, keep: str, dtype: str) -> int:
    """Each file, and an index of those that hold anything."""
    files = json.loads((source / INDEX).read_text())["weight_map"]
    total, places = 0, {}
    for file in sorted(set(files.values())):
        if Path(file).name != file:
            raise ValueError(f"{INDEX} names {file!r}, which lies elsewhere")
        target = output / file.replace("pytorch_model", "model").replace(".bin", ".safetensors")
        total += convert_file(source / file, target, keep, dtype)
        if target.exists():
            places |= dict.fromkeys(safetensors.tensors(str(target)), target.name)
    (output / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}, indent=1))
    return total


def copy_beside(source: Path, output: Path) -> None:
    if source.resolve() == output.resolve():
        return
    for file in (file for pattern in BESIDE for file in source.glob(pattern)):
        if file.name != INDEX:
            shutil.copyfile(file, output / file.name)


def act(options: dict) -> str:
    source = options.pop("input")
    output = options.pop("output") or source
    return f"{convert(source, output, **options) / 1e9:.2f} GB of weights: {output}"


def main(argv: list[str]) -> None:
    command.run(argv, __doc__, define, act)


if __name__ == "__main__":
    main(sys.argv)
