"""A sweep runs every cell once, whatever kills it, and its table says which is best."""

import collections
import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import pytest
from PIL import Image

from configs import digits
from experiment import build
from tools import sweep
from tools.sweeps import devices, pool
from tools.sweeps.cells import make_cell, name_of, read_cells

ROOT = pathlib.Path(__file__).resolve().parents[2]
FAKE = pathlib.Path(__file__).with_name("fake_cell.py")
CONFIG = """
from configs import base
def get_config(arg=""):
    config = base.get_config()
    config.train.steps = 3
    config.ema.decays = (0.5,)
    return config
"""
GRID = """
def sweep():
    for lr in (1.0, 2.0, 3.0):
        for seed in range(4):
            yield {"optim.lr": lr, "seed": seed}
"""


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path, GRID)


def write_config(folder, text):
    path = folder / "swept.py"
    path.write_text(CONFIG + text)
    return str(path)


def run(*argv):
    """The sweep in this process, its cells being fakes."""
    sweep.main(["sweep", *argv])


@pytest.fixture
def fake(monkeypatch):
    real = sweep.command
    command = lambda *words: [sys.executable, "-S", str(FAKE), *real(*words)[2:]]  # noqa: E731
    monkeypatch.setattr(sweep, "command", command)


# The sweep as a process whose cells are fakes.
PROGRAM = f"""
import sys
from tools import sweep
real = sweep.command
sweep.command = lambda *words: [sys.executable, "-S", {str(FAKE)!r}, *real(*words)[2:]]
sweep.main(sys.argv)
"""


def history(workdir):
    return [json.loads(line) for line in (workdir / "sweep.jsonl").read_text().splitlines()]


def test_a_sweep_killed_twice_does_every_cell_exactly_once(tmp_path, config):
    workdir = tmp_path / "sweep"
    argv = [sys.executable, "-c", PROGRAM, f"--config={config}", f"--workdir={workdir}", "--max_parallel=2"]
    for signum, starts in ((signal.SIGKILL, 3), (signal.SIGTERM, 8)):
        process = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        while not workdir.exists() or len(list(workdir.glob("cells/*/starts"))) < starts:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signum)
        process.communicate()
        assert process.returncode == (-signum if signum == signal.SIGKILL else 128 + signum)
    assert subprocess.run(argv, cwd=ROOT).returncode == 0
    cells = sorted((workdir / "cells").iterdir())
    assert len(cells) == 12
    for cell in cells:
        steps = [json.loads(line)["step"] for line in (cell / "metrics.jsonl").read_text().splitlines()]
        assert steps == [1, 2, 3]  # resumed, and no step twice
    done = collections.Counter(line["cell"] for line in history(workdir) if line["event"] == "done")
    assert max(done.values()) == 1
    assert any(line["event"].startswith("cut off") for line in history(workdir))
    before = (workdir / "sweep.jsonl").read_text()
    run(f"--config={config}", f"--workdir={workdir}")  # nothing is left to do
    assert (workdir / "sweep.jsonl").read_text() == before


def test_the_table_is_best_first_with_mean_and_deviation_over_seeds(tmp_path, config, fake, capsys):
    run(f"--config={config}", f"--workdir={tmp_path}/s", "--max_parallel=12")
    rows = list(csv.DictReader(open(tmp_path / "s" / "sweep.csv")))
    assert [float(row["optim.lr"]) for row in rows[:4]] == [2.0] * 4 and rows[0]["seed"] == "0"
    values = [float(row["validation_loss"]) for row in rows[:4]]
    assert values == pytest.approx([0, 0.1, 0.2, 0.3]) and {row["status"] for row in rows} == {"done"}
    assert float(rows[0]["mean"]) == pytest.approx(0.15) and rows[0]["seeds"] == "4"
    assert float(rows[0]["deviation"]) == pytest.approx((sum((v - 0.15) ** 2 for v in values) / 3) ** 0.5, rel=1e-5)
    assert "best by validation_loss: lr=2.0_seed=0_" in capsys.readouterr().out
    assert Image.open(tmp_path / "s" / "sweep.png").size[0] > 400
    run(f"--config={config}", f"--workdir={tmp_path}/s", "--direction=higher", "--table_only")
    rows = list(csv.DictReader(open(tmp_path / "s" / "sweep.csv")))
    assert {float(row["optim.lr"]) for row in rows[:4]} != {2.0} and rows[0]["seed"] == "3"


def test_a_cell_that_fails_is_named_and_tried_again_by_the_same_command(tmp_path, config, fake, monkeypatch, capsys):
    good = sweep.command
    monkeypatch.setattr(
        sweep, "command", lambda options, cell: ["false"] if cell.config.seed == 2 else good(options, cell)
    )
    words = (f"--config={config}", f"--workdir={tmp_path}/s", "--max_parallel=12")
    with pytest.raises(SystemExit) as exit:
        run(*words)
    assert exit.value.code == 1 and "3 cells are not done" in capsys.readouterr().err
    monkeypatch.setattr(sweep, "command", good)
    run(*words)
    starts = collections.Counter(line["cell"] for line in history(tmp_path / "s") if line["event"] == "start")
    assert sorted(starts.values()) == [1] * 9 + [2] * 3


def test_names_are_stable_readable_and_of_the_cell_alone():
    assert name_of({"optim.lr": 2e-3, "seed": 1}) == name_of({"seed": 1, "optim.lr": 2e-3})
    assert re.fullmatch(r"lr=0\.002_seed=1_[0-9a-f]{8}", name_of({"optim.lr": 2e-3, "seed": 1}))
    long = name_of({"sampling.sampler": "ancestral(variance='large')", "model.multipliers": (1, 2) * 20})
    assert re.fullmatch(r"[\w.=+-]{,75}", long)
    assert name_of({"model.name": "a", "data.name": "b"}) != name_of({"model.name": "b", "data.name": "a"})


def test_digits_has_twelve_cells_whose_flags_give_their_configs(tmp_path):
    words = ["sweep", "--config=configs/digits.py:tiny", f"--workdir={tmp_path}", "--config.ema.decays=0.5,0.75"]
    options = sweep.parse_flags(words)
    cells = read_cells(str(ROOT / "configs" / "digits.py"), options.config, tmp_path)
    assert len({cell.name for cell in cells}) == 12
    for cell in cells[:2]:
        words = [word for word in sweep.command(options, cell)[1:] if word != "--nodistributed"]
        assert sweep.parse_flags(words).config.to_dict() == cell.config.to_dict()
        assert cell.config.ema.decays == (0.5, 0.75)


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as exit:
        run(*argv)
    assert exit.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "has no sweep()"),
        ("def sweep(): yield from ()", "yields nothing"),
        ("def sweep(): yield {'optim.lrr': 1.0}", "did you mean optim.lr?"),
        ("def sweep(): yield {'optim.lr': 'fast'}", "optim.lr"),
        ("def sweep(): yield {'seed': 1}; yield {'optim.lr': 1.0}; yield {'seed': 1}", "are the same run"),
        ("def sweep(): yield {}; yield {'seed': 0}", "are the same run"),
    ],
)
def test_a_sweep_that_cannot_be_is_one_line(tmp_path, capsys, text, said):
    path = write_config(tmp_path, text)
    assert said in refused(capsys, f"--config={path}", f"--workdir={tmp_path}/s")


@pytest.mark.parametrize("name, text", [("done.json", '{"ste'), ("config.json", "{}"), ("done.json", "{}")])
def test_a_damaged_folder_is_named_before_anything_runs(tmp_path, config, fake, capsys, name, text):
    options = sweep.parse_flags(["sweep", f"--config={config}", f"--workdir={tmp_path}/s"])
    cell = read_cells(config, options.config, tmp_path / "s")[5]
    cell.folder.mkdir(parents=True)
    (cell.folder / name).write_text(text if name == "done.json" else json.dumps(cell.config.to_dict() | {"seed": 7}))
    line = refused(capsys, f"--config={config}", f"--workdir={tmp_path}/s")
    assert cell.name in line and "delete" in line
    assert not (tmp_path / "s" / "sweep.jsonl").exists()


def test_two_sweeps_of_one_workdir_are_refused(tmp_path, config, fake, capsys):
    held = sweep.records.lock(tmp_path / "s")
    assert "another" in refused(capsys, f"--config={config}", f"--workdir={tmp_path}/s")
    held.close()


def test_more_devices_than_there_are_is_one_line(tmp_path, config, fake, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    words = (f"--config={config}", f"--workdir={tmp_path}/s", "--max_parallel=3")
    assert "need 6 devices; this machine has 4 (GPU)" in refused(capsys, *words, "--devices_per_run=2")
    assert "give --devices_per_run" in refused(capsys, *words)
    assert not (tmp_path / "s" / "sweep.jsonl").exists()


def test_runs_at_a_time_have_devices_of_their_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    own = [devices.environment(part) for part in devices.share(devices.visible(), 2, 2)]
    assert own == [{"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "6,7"}]
    chips = devices.Devices("TPU chip", (0, 1, 2, 3))
    own = [devices.environment(part) for part in devices.share(chips, 4, 1)]
    assert [part["TPU_VISIBLE_CHIPS"] for part in own] == ["0", "1", "2", "3"]
    with pytest.raises(ValueError, match="3 TPU chips is not one of"):
        devices.environment(*devices.share(chips, 1, 3))


def test_cores_are_a_runs_own(tmp_path):
    cores = sorted(os.sched_getaffinity(0))
    code = "import os, sys; open(sys.argv[1], 'w').write(str(os.sched_getaffinity(0)))"
    cell = make_cell(digits.get_config(), {}, tmp_path)
    argv = [sys.executable, "-S", "-c", code, str(tmp_path / "seen")]
    (own,) = devices.share(devices.Devices("CPU core", tuple(cores)), 1, 1)
    assert pool.start(cell, argv, own, tmp_path / "log").process.wait() == 0
    assert (tmp_path / "seen").read_text() == str({cores[0]})


def test_away_a_cell_is_launched_watched_and_deleted(tmp_path, config, capsys):
    words = ["--launcher=tpu", "--launch=--accelerator=v5e-4 --zone=z --project=p --spot", "--dry_run"]
    run(f"--config={config}", f"--workdir={tmp_path}/s", *words)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 and len({re.search(r"--name=(\S+)", line)[1] for line in lines}) == 12
    assert all("-m tools.launch watch --backend=tpu" in line and "--delete_after" in line for line in lines)
    assert refused(capsys, f"--config={config}", f"--workdir={tmp_path}/s", "--launcher=tpu", "--vmap")


def test_cells_that_differ_in_seed_or_rate_alone_share_one_compiled_step():
    """The lowered program is the compilation cache's key."""

    def lowered(overrides):
        config = digits.get_config("tiny")
        config.model.update(channels=8, groups=4, multipliers=(1,), attention=())
        experiment = build(make_cell(config, overrides, pathlib.Path("w")).config)
        batch = jax.eval_shape(lambda: next(experiment.batches(0)))
        return experiment.train_step.lower(experiment.abstract, None, batch).as_text()

    assert lowered({"seed": 1}) == lowered({"seed": 2, "optim.lr": 1e-2})
    assert lowered({"seed": 1}) != lowered({"optim.b1": 0.5})
