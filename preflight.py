"""Buckets, tried before anything is started or billed: listed, and written to where a run writes."""

import itertools
import os
import socket
import threading
import time

from etils import epath

from calls import parse_call
from training.metrics import in_bucket

SECONDS = 20.0


def places(config, flags) -> dict[str, bool]:
    """{address: whether it is written to} of every bucket that a run of main.py uses."""
    stages = [stage.workdir for stage in config.stages.values()] if "stages" in config else []
    read = stages or [config.data.path, config.init_from, config.distill.teacher, *latent_places(config)]
    written = [flags.workdir, flags.out, flags.compilation_cache]
    found = dict.fromkeys(filter(None, read), False) | dict.fromkeys(filter(None, written), True)
    return {address: writing for address, writing in found.items() if in_bucket(address)}


def latent_places(config) -> list[str]:
    """Where the autoencoder of latents lies."""
    encoder = config.latent.encoder
    return [str(value) for _, value in parse_call(encoder, "latent.encoder").arguments] if encoder else []


def check(places: dict[str, bool], seconds: float = SECONDS) -> None:
    """Tries all at once. Raises ValueError, in one line, for the first that fails or does not answer in time."""
    problems: dict[str, str | None] = {}

    def attempt(address: str, writing: bool) -> None:
        try:
            probe(epath.Path(address), writing)
            problems[address] = None
        except Exception as error:  # every store has errors of its own
            problems[address] = " ".join(str(error).split())[:200] or repr(error)

    # Daemons: a store that does not answer must not keep the process from leaving.
    threads = [threading.Thread(target=attempt, args=item, daemon=True) for item in places.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    for address, writing in places.items():
        problem = problems.get(address, f"no answer within {seconds:g} s")
        if problem:
            verb = "written" if writing else "read"
            raise ValueError(f"{address} cannot be {verb}: {problem}; check its name, the credentials, and that "
                             "requirements-tpu.txt is installed")  # fmt: skip


def probe(path: epath.Path, writing: bool) -> None:
    """Lists the place, and puts an object there and takes it away again."""
    if not writing:
        next(iter(path.iterdir()), None)
        return
    object_ = path / f".probe_{socket.gethostname()}_{os.getpid()}"
    object_.parent.mkdir(parents=True, exist_ok=True)
    object_.write_bytes(b"langevin")
    try:
        if object_.name not in (entry.name for entry in itertools.islice(path.iterdir(), 10_000)):
            raise OSError("an object written there is not listed")
    finally:
        object_.unlink()
