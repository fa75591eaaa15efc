"""A gcloud that bills nobody: it records its calls in $FAKE/calls.jsonl and preempts the slice in its first run."""

import json
import os
import pathlib
import sys

HERE, ARGV = pathlib.Path(os.environ["FAKE"]), sys.argv[1:]
WORKERS = 4


def count(name, add=0):
    path = HERE / name
    number = int(path.read_text()) if path.exists() else 0
    path.write_text(str(number + add))
    return number + add


def fail(message):
    sys.exit(f"ERROR: (gcloud) {message}")


with open(HERE / "calls.jsonl", "a") as file:
    file.write(json.dumps(ARGV) + "\n")
if (HERE / "refuses").exists():
    fail("PERMISSION_DENIED: Cloud TPU API has not been used in project p before or it is disabled.")
there, command = HERE / "slice", " ".join(word for word in ARGV if word.startswith("--command="))
if "create" in ARGV:
    if there.exists():
        fail("ALREADY_EXISTS: the queued resource is there")
    there.write_text("WAITING_FOR_RESOURCES")
elif "delete" in ARGV:
    there.unlink()
elif "queued-resources" in ARGV and "describe" in ARGV:
    if not there.exists():
        fail("NOT_FOUND: the queued resource is not there")
    print(there.read_text())
    if there.read_text() == "WAITING_FOR_RESOURCES":
        there.write_text("ACTIVE")
elif "describe" in ARGV:
    print("READY")
elif "setsid" in command:
    count("runs", 1)
    (HERE / "looks").unlink(missing_ok=True)
elif "langevin-run " in command:
    run, look = count("runs"), count("looks", 1)
    if run == 1 and look == 2:
        there.write_text("SUSPENDED")
        fail("the connection was closed by the other side")
    word = "none" if run == 0 or (run == 1 and look > 2) else "running" if look == 1 else "0"
    print("\n".join([f"langevin-run {word}"] * WORKERS))
