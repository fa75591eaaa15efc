"""In main.py's place: a few quick steps, one line of metrics each, resumed after a kill, done.json at the end."""

import fcntl
import json
import pathlib
import signal
import sys
import time

flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if "=" in word)
folder, lr, seed = pathlib.Path(flags["workdir"]), float(flags["config.optim.lr"]), int(flags["config.seed"])
folder.mkdir(parents=True, exist_ok=True)
lock = open(folder / ".lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
metrics = folder / "metrics.jsonl"
start = len(metrics.read_text().splitlines()) if metrics.exists() else 0
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with open(folder / "starts", "a") as file:
    file.write(f"{start}\n")
for step in range(start + 1, 4):
    time.sleep(0.1)
    with open(metrics, "a") as file:
        file.write(json.dumps({"step": step, "validation_loss/0.5": abs(lr - 2) + seed / 10 + 3 - step}) + "\n")
(folder / "done.json").write_text(json.dumps({"steps": 3}))
