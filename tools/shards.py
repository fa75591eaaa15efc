"""Writing record shards so that a killed program goes on: a shard takes its name when it and its notes are whole."""

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from input_pipeline import arrayrecord


def local_folder(output: str) -> Path:
    """The folder, made where it is not there; ValueError for a bucket."""
    if "://" in output:
        raise ValueError(f"--output={output} is no local folder; write to one, and copy it there")
    path = Path(output).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    return path


def shard_paths(output: Path, split: str, number: int) -> list[Path]:
    return [output / f"{split}-{i:05}-of-{number:05}.arrayrecord" for i in range(number)]


def write_shard(path: Path, fill: Callable[[Callable[[bytes], None]], dict]) -> None:
    """fill(put) puts the records and returns the notes on what is in them."""
    part = path.with_suffix(".part")
    # one record a group: random access would read the whole group
    writer = arrayrecord.array_record_module().ArrayRecordWriter(str(part), "group_size:1,uncompressed")
    try:
        notes = fill(writer.write)
    finally:
        writer.close()
    write_json(notes_file(path), {"file": path.name, "bytes": part.stat().st_size} | notes)
    os.replace(part, path)


def notes_file(path: Path) -> Path:
    return path.with_suffix(".notes")


def read_notes(paths: list[Path]) -> list[dict]:
    return [json.loads(notes_file(path).read_text()) for path in paths]


def write_json(path: Path, value: dict) -> None:
    """Whole or not at all, whenever the program is killed, and whoever writes the same beside it."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    part.write_text(json.dumps(value, indent=1))
    os.replace(part, path)


def check_settings(output: Path, split: str, settings: dict) -> None:
    """Note the settings; ValueError where what lies there was made with others."""
    file = output / f"{split}.settings"
    before = json.loads(file.read_text()) if file.is_file() else settings
    differ = {key: (before.get(key), settings[key]) for key in settings if before.get(key) != settings[key]}
    if differ:
        raise ValueError(f"{output} holds {split} packed otherwise, (before, now): {differ}; empty it")
    write_json(file, settings)
