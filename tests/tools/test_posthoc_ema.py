"""A user's way to an average of another width: train with snapshots, reconstruct, sample."""

import json
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from tools.posthoc_ema import main
from training import posthoc

ROOT = pathlib.Path(__file__).parents[2]
SMALL = ("--config=configs/digits.py:tiny", "--config.model.multipliers=(1,)", "--config.model.attention=()",
         "--config.train.steps=8", "--config.checkpoint.every=8", "--config.log.samples_every=0",
         "--config.log.validation_every=0", "--config.log.every=8", "--config.ema.sigma_rels=0.05,0.1",
         "--config.ema.snapshot_every=2")  # fmt: skip


def run(*arguments):
    """main.py on one device, compiled in haste: a program here runs a few times."""
    command = [sys.executable, "main.py", *arguments]
    haste = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    environment = {**os.environ, "XLA_FLAGS": haste}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_an_average_made_after_training_is_sampled_by_its_name(tmp_path, capsys):
    workdir = f"--workdir={tmp_path}"
    trained = run(*SMALL, workdir)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert posthoc.snapshot_steps(tmp_path) == [2, 4, 6, 8]

    main(["posthoc_ema", workdir, "--sigma_rel=0.08,.130"])
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("posthoc_0.08 at step 8: residual 0.0") and told[1].endswith("power_0.05 at step 2")
    assert np.isclose(sum(float(line.split()[0]) for line in told[1:9]), 1, atol=1e-5)

    drawn = run("--mode=sample", workdir, "--ema=posthoc_0.13", "--num=2", f"--out={tmp_path / 'out'}")
    assert drawn.returncode == 0, drawn.stderr[-3000:]
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["ema"] == "posthoc_0.13" and settings["checkpoint"] == 8


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("snapshots")
    for step in (5, 10, 15):
        facts = {"updates": step, "sigma_rels": {"power_0.1": 0.1}}
        posthoc.save(workdir, posthoc.SNAPSHOTS, step, {"power_0.1": {"w": jnp.zeros(1)}}, facts)
    return workdir


MISTAKES = {
    "no ema_snapshots in nowhere: train with ema.sigma_rels": ["--workdir=nowhere", "--sigma_rel=0.1"],
    "sigma_rel=0.3 must lie between 0 and 0.2887": ["--sigma_rel=0.1,0.3"],
    "--sigma_rel=wide must be numbers": ["--sigma_rel=wide"],
    "step=16 must be from 1 to 15": ["--sigma_rel=0.1", "--step=16"],
    "do not express sigma_rel=0.01 at step 15": ["--sigma_rel=0.01"],
    "--sigma_rel must have a value": [],
    "unexpected argument 'stray'": ["--sigma_rel=0.1", "stray"],
    "config.json is not there": ["--sigma_rel=0.1"],
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_one_line(snapshots, capsys, monkeypatch, message):
    monkeypatch.chdir(snapshots.parent)
    with pytest.raises(SystemExit) as ended:
        main(["posthoc_ema", f"--workdir={snapshots}", *MISTAKES[message]])
    told = capsys.readouterr()
    assert (
        ended.value.code == 2 and told.err.startswith("error: ") and message in told.err.replace(f"{os.getcwd()}/", "")
    )
    assert told.err.count("\n") == 1 and told.out == ""
