"""The command line as a user meets it: every file that a run leaves, resume, and mistakes in one line."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
TINY = "--config=configs/digits.py:tiny"


def command(*arguments):
    return [sys.executable, "main.py", *arguments]


def environment():
    """One device, as a user's laptop has; the suite's compilation cache."""
    return {**os.environ, "XLA_FLAGS": ""}


def run(*arguments):
    return subprocess.run(command(*arguments), cwd=ROOT, env=environment(), capture_output=True, text=True)


def ok(*arguments):
    result = run(*arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def refused(*arguments):
    """The one line on stderr of a command that must fail."""
    result = run(*arguments)
    assert result.returncode not in (0, -signal.SIGKILL)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Traceback" not in result.stderr, result.stderr[-3000:]
    return last


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    ok(TINY, f"--workdir={workdir}")
    return workdir


def test_a_training_leaves_the_files_of_the_contract(trained):
    names = {path.name for path in trained.iterdir()}
    assert {
        "config.json",
        "run.json",
        "metrics.jsonl",
        "checkpoints",
        "samples",
        "heartbeat.json",
        "done.json",
    } <= names
    assert any("tfevents" in name for name in names)
    entry = json.loads((trained / "run.json").read_text())[0]
    assert (
        entry["mode"] == "train"
        and entry["packages"]["jax"]
        and entry["devices"]
        and sum(entry["data"]["label_counts"])
    )
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "trivial_loss", "gradient_norm"} <= lines[0].keys()
    assert "validation_loss/0.995" in lines[-1]
    assert Image.open(trained / "samples" / "step_00000002.png").size[0] > 100


def test_samples_come_with_labels_seeds_and_settings(trained, tmp_path):
    ok(
        "--mode=sample",
        f"--workdir={trained}",
        "--num=5",
        "--seed=7",
        "--label=3",
        "--steps=2",
        f"--out={tmp_path}",
    )
    with np.load(tmp_path / "samples.npz") as drawn:
        assert drawn["images"].shape == (5, 8, 8, 1) and drawn["images"].dtype == np.uint8
        assert list(drawn["seeds"]) == [7, 8, 9, 10, 11] and set(drawn["labels"]) == {3}
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["checkpoint"] == 2 and settings["ema"] == "0.995" and settings["steps"] == 2
    assert (tmp_path / "grid.png").exists()


def test_evaluation_writes_the_settings_beside_every_number(trained):
    ok(
        "--mode=evaluate",
        f"--workdir={trained}",
        "--config.evaluation.samples=40",
        "--config.sampling.batch_size=40",
    )
    report = json.loads((trained / "evaluation.json").read_text())
    assert report["settings"]["ema"] == "0.995" and report["settings"]["guidance"] == 1.2
    for name in ("validation_loss", "svc/agreement", "frechet/ratio", "neighbours/samples"):
        assert np.isfinite(report["results"][name]["value"]) and "n" in report["results"][name]
    assert json.loads((trained / "evaluation" / "step_00000002.json").read_text()) == report


def test_the_same_command_again_does_not_train_again(trained):
    before = (trained / "metrics.jsonl").read_text()
    ok(TINY, f"--workdir={trained}")
    assert (trained / "metrics.jsonl").read_text() == before
    assert len(json.loads((trained / "run.json").read_text())) >= 2


def test_a_resume_under_another_config_stops_and_lists_the_keys(trained):
    line = refused(TINY, f"--workdir={trained}", "--config.optim.lr=0.5", "--config.train.steps=3")
    assert "optim.lr: 0.002 -> 0.5" in line and "train.steps" not in line and "--allow_config_change" in line


MISTAKES = {
    "did you mean optim.lr": (TINY, "--config.optim.lrr=1"),
    "--config.optim.lr=fast": (TINY, "--config.optim.lr=fast"),
    "config word 'tinny' is unknown": ("--config=configs/digits.py:tinny",),
    "nothing.py": ("--config=configs/nothing.py",),
    "config.json is not there": ("--mode=sample",),
    "--config must have a value": (),
    "mode": ("--mode=dream",),
    "bogus": (TINY, "--bogus=1"),
    "--steps belongs to --mode=sample": (TINY, "--steps=3"),
    "needs a network trained": (TINY, "--config.task.drop=0", "--config.sampling.guidance=2"),
    "train.batch_size=7 does not": (TINY, "--config.train.batch_size=7", "--config.optim.accumulate=2"),
    "split='nothing'": (TINY, "--config.data.eval_split=nothing"),
    "nowhere": ("--config=configs/folder.py:path=nowhere,size=8",),
    "'stray'": (TINY, "stray"),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_one_line(message, tmp_path):
    assert message in refused(*MISTAKES[message], f"--workdir={tmp_path / 'new'}")
    assert not (tmp_path / "new" / "checkpoints").exists()


@pytest.mark.parametrize(
    "message, arguments",
    {
        "no weights '0.5'; --ema can be 0.995, raw": ["--ema=0.5"],
        "no checkpoint 9": ["--checkpoint=9"],
        "--label=11 must be": ["--label=11"],
        "sampling.sampler='eulr' is unknown": ["--sampler=eulr"],
    }.items(),
)
def test_a_mistake_in_sampling_is_one_line(trained, message, arguments):
    assert message in refused("--mode=sample", f"--workdir={trained}", *arguments)


def leaves(workdir, step):
    """Every array of a checkpoint, by name."""
    import jax

    from configs import digits
    from experiment import build
    from training.checkpoint import Checkpoints, as_dict, part_name
    from training.sharding import data_mesh, replicated

    one = replicated(data_mesh(jax.devices()[:1]))
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one),
        build(digits.get_config("tiny")).abstract,
    )
    state = Checkpoints(workdir, read_only=True).restore(step, like)
    return {"/".join(map(part_name, path)): np.asarray(x) for path, x in jax.tree.leaves_with_path(as_dict(state))}


LONG = (TINY, "--config.train.steps=40", "--config.checkpoint.every=5", "--config.log.samples_every=0",
        "--config.log.validation_every=0", "--config.log.every=5")  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    ok(*LONG, f"--workdir={workdir}")
    return leaves(workdir, 40)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_and_resumed_is_the_uninterrupted_run_bit_for_bit(tmp_path, uninterrupted, signum):
    cut = tmp_path / "cut"
    process = subprocess.Popen(command(*LONG, f"--workdir={cut}"), cwd=ROOT, env=environment(), stderr=subprocess.PIPE)
    deadline = time.time() + 120
    while not list((cut / "checkpoints").glob("[0-9]*")) and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signum)
    process.wait(timeout=60)
    assert process.returncode != 0 and not (cut / "done.json").exists()
    ok(*LONG, f"--workdir={cut}")
    found = leaves(cut, 40)
    assert uninterrupted.keys() == found.keys()
    assert [name for name in found if not np.array_equal(uninterrupted[name], found[name])] == []
    steps = [json.loads(line)["step"] for line in (cut / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 40
