"""What a run leaves beside its checkpoints: config.json, run.json, and the check that a resume means the same run."""

import datetime
import difflib
import fcntl
import functools
import json
import os
import subprocess
import sys
from importlib import metadata

import jax
from etils import epath
from ml_collections import ConfigDict

from configs import base
from training import hosts
from training.metrics import write_json

# Keys that shape the result; a resume must agree on them. Those under FREE are about where and how fast, not what.
SHAPING = ("seed", "init_", "family", "task", "data", "text", "model", "diffusion", "vae", "gan", "latent")
SHAPING += ("distill", "optim", "ema", "train.batch_size")
FREE = (
    "data.path",
    "data.workers",
    "data.prefetch",
    "data.max_bad_share",
    "data.eval_split",
    "text.embeddings",
    "model.remat",
    "model.flash",
    "optim.accumulate",
    "optim.max_skipped",
    "ema.snapshot_every",
)
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scikit-learn")


def lock(workdir: str):
    """Keeps other trainings out of a local workdir while the returned file is open; a kill opens it again."""
    if "://" in os.fspath(workdir) or not hosts.writes():
        return None
    os.makedirs(workdir, exist_ok=True)
    file = open(os.path.join(workdir, ".lock"), "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(f"another training writes into {workdir}: stop it, or use another --workdir") from None
    return file


def flatten(config, prefix: str = "") -> dict:
    """{'optim.lr': 2e-4, ...} of a ConfigDict or the dict that JSON gave back; sequences are lists."""
    flat = {}
    for key, value in dict(config).items():
        if isinstance(value, ConfigDict | dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple | list) else value
    return flat


def unknown_flag(argv: list[str]) -> str | None:
    """What to say of the first --config.KEY that is not in configs/base.py; None if all are."""
    known = flatten(base.get_config())
    keys = [word.lstrip("-").partition("=")[0] for word in argv[1:]]
    keys = [key.removeprefix("config.") for key in keys if key.startswith("config.")]
    for stage in (key.split(".")[1] for key in keys if key.startswith("stages.")):  # of a cascade
        known |= flatten(base.stages(**{stage: ""}))
    return next((unknown_key(key, known) for key in keys if key not in known), None)


def unknown_key(key: str, known: dict) -> str:
    """What to say of a dotted config key that is not among the known ones: what is near it."""
    section = [name for name in known if name.partition(".")[0] == key.partition(".")[0]]
    near = difflib.get_close_matches(key, section, n=3, cutoff=0.8) or section
    near = near or sorted({name.partition(".")[0] for name in known if "." in name})
    return f"config key {key!r} is unknown; did you mean {', '.join(near)}?"


def read_json(path):
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or use another --workdir") from None


def read_config(workdir: str) -> ConfigDict:
    """The config of the run in `workdir`. Raises ValueError where there is none."""
    path = epath.Path(workdir) / "config.json"
    if not path.exists():
        raise ValueError(f"{path} is not there: give --config, or a --workdir in which a training was started")

    stored = flatten(read_json(path))
    config = base.get_config()  # gives an older run's config the knobs that came since
    with config.unlocked():
        for key, value in stored.items():
            if value is None:  # base has the optional numbers unset
                continue
            try:
                config.update_from_flattened_dict({key: tuple(value) if isinstance(value, list) else value})
            except TypeError as error:
                reason = f"{path}: {key}={value!r} is of an older version, and of another type now ({error})"
                raise ValueError(f"{reason}; write a value as configs/base.py has it") from None
    return config


def write_config(workdir: str, config: ConfigDict) -> None:
    write_json(epath.Path(workdir) / "config.json", config.to_dict())


def differences(config, stored) -> dict[str, tuple]:
    """{key: (stored value, value now)} of the keys on which two configs differ."""
    now, then = flatten(config), flatten(stored)
    keys = sorted(now.keys() | then.keys())
    return {key: (then.get(key), now.get(key)) for key in keys if now.get(key) != then.get(key)}


def check_resume(config, stored, allow: bool) -> dict[str, tuple]:
    """All differences; ValueError listing those that shape the result, unless `allow`."""
    found = differences(config, stored)
    shaping = {key: pair for key, pair in found.items() if key.startswith(SHAPING) and key not in FREE}
    if shaping and not allow:
        listed = "; ".join(f"{key}: {then} -> {now}" for key, (then, now) in shaping.items())
        raise ValueError(
            f"the run in this workdir was started with another config ({listed}); use another --workdir, the old "
            "values, or --allow_config_change"
        )
    return found


def check_data(facts: dict, stored: dict | None) -> None:
    """ValueError where the training set is not the one that the run began with, wherever it lies now."""
    changed = [key for key in facts if stored and key in stored and facts[key] != stored[key]]
    if changed:
        raise ValueError(
            f"the training set is not the one this run began with ({', '.join(changed)} differ: "
            f"{stored['size']} images then, {facts['size']} now); restore it, or use another --workdir"
        )


def record_start(workdir: str, **facts) -> None:
    """Appends this start to run.json: when, what code, which packages and devices, which command."""
    path = epath.Path(workdir) / "run.json"
    entries = read_json(path) if path.exists() else []
    entries.append(
        {
            "started": now(),
            "command": sys.argv,
            "git": git_state(),
            "python": sys.version.split()[0],
            "packages": {name: metadata.version(name) for name in PACKAGES},
            "devices": [str(device) for device in jax.devices()],
            "processes": jax.process_count(),
            **facts,
        }
    )
    write_json(path, entries)


def last_start(workdir: str, mode: str) -> dict:
    """The newest entry of run.json that has this mode; {} if there is none."""
    path = epath.Path(workdir) / "run.json"
    entries = read_json(path) if path.exists() else []
    return next((entry for entry in reversed(entries) if entry.get("mode") == mode), {})


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@functools.cache  # what runs is what was imported, whatever is committed while it runs
def git_state() -> dict:
    """The commit of this code and whether tracked files differ from it; nulls outside a checkout."""

    def git(*words):
        here = os.path.dirname(os.path.abspath(__file__))
        try:
            result = subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}
