"""Launching against a gcloud that records and preempts, and the scripts that machines are told, run here."""

import json
import os
import pathlib
import re
import subprocess
import sys
import time

import pytest
import yaml

from tools import launch
from tools.launchers import BACKENDS, Job, base, remote

TPU = ["--backend=tpu", "--name=a", "--accelerator=v5e-16", "--zone=z-1-a", "--project=p"]
WHAT = ["--config=configs/digits.py", "--workdir=gs://bucket/a"]
JOB = Job("a", ("main.py", "--config=c.py", "--workdir=gs://b/a"), zone="us-east5-a", project="p")


def program(folder, name, text):
    path = folder / name
    path.write_text(f"#!{text}")
    path.chmod(0o755)


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """The folder of a fake gcloud and a fake git, first on PATH."""
    here = pathlib.Path(__file__).with_name("fake_gcloud.py")
    program(tmp_path, "gcloud", f'/bin/sh\nexec {sys.executable} -S -E {here} "$@"\n')
    program(tmp_path, "git", "/bin/sh\nexit 0\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.setattr(launch.preflight, "check", lambda places: None)
    return tmp_path


def calls(fake):
    path = fake / "calls.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def failure(capsys, *argv):
    """The one line on stderr of a launch that must be refused."""
    with pytest.raises(SystemExit) as exit:
        launch.main(["launch", *argv])
    assert exit.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line


def verb(call):
    """What a call to gcloud is about: its verb, or what the ssh tells the machines."""
    told = {"uv python install": "install", "setsid": "start", "langevin-run ": "look"}
    return next((word for piece, word in told.items() if piece in call[-1]), call[3])


def test_a_preempted_slice_is_made_again_and_its_run_goes_on(fake):
    launch.main(["launch", "watch", *TPU, "--spot", *WHAT, "--poll_s=0", "--delete_after", "--", "--config.seed=3"])
    made = [call for call in calls(fake) if verb(call) not in ("look", "describe")]
    once = ["create", "scp", "install", "start"]
    assert [verb(call) for call in made] == ["list", *once, "delete", *once, "delete"]
    starts = [call for call in made if verb(call) == "start"]
    assert starts[0] == starts[1] and "--config.seed=3" in starts[0][-1] and "--workdir=gs://bucket/a" in starts[0][-1]
    assert not (fake / "slice").exists()


def test_a_dry_run_prints_the_commands_and_runs_none(fake, capsys):
    launch.main(["launch", "create", *TPU, "--spot", "--dry_run"])
    assert (
        capsys.readouterr().out.split()
        == (
            "gcloud compute tpus queued-resources create a --node-id=a --runtime-version=v2-alpha-tpuv5-lite "
            "--accelerator-type=v5litepod-16 --zone=z-1-a --project=p --spot"
        ).split()
    )
    assert calls(fake) == []


def test_a_missing_gcloud_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "gcloud is not installed" in failure(capsys, "create", *TPU)


def test_a_refusing_gcloud_is_one_line_before_anything_is_billed(fake, capsys):
    (fake / "refuses").touch()
    assert "refuses, nothing was started: ERROR: (gcloud) PERMISSION_DENIED" in failure(capsys, "create", *TPU)
    assert not any("create" in call for call in calls(fake))


def test_a_bucket_that_cannot_be_written_is_one_line_before_anything_is_billed(fake, capsys, monkeypatch):
    def refuse(places):
        assert places == {"gs://bucket/a": True, "gs://bucket/shards": False}
        raise ValueError("gs://bucket/a cannot be written: denied")

    monkeypatch.setattr(launch.preflight, "check", refuse)
    argv = ["watch", *TPU, *WHAT, "--", "--config.data.path=gs://bucket/shards"]
    assert "gs://bucket/a cannot be written" in failure(capsys, *argv)
    assert not any("create" in call for call in calls(fake))


@pytest.mark.parametrize(
    "argv, text",
    [
        (["create", "--backend=tpu", "--name=a"], "needs --accelerator"),
        (["create", *TPU[:2], "--accelerator=v5e-17", *TPU[3:]], "v5e-17"),
        (["create", *TPU[:2], "--accelerator=tpu7x:2x2x2", *TPU[3:]], "v7x and later are --backend=gce"),
        (["create", *TPU, "--partition=x"], "--partition says nothing to --backend=tpu"),
        (["run", *TPU], "needs --config"),
        (["create", *TPU[:1], "--name=A_b", *TPU[2:]], "--name=A_b"),
        (["begin", *TPU], "give one action"),
        (["watch", "--backend=sky", "--name=a", "--accelerator=v6e-8", *WHAT], "by itself: use run"),
        (["run", "--backend=slurm", "--name=a", "--accelerator=v5e-8", *WHAT], "SLURM has GPU nodes"),
    ],
)
def test_bad_flags_are_one_line(argv, text, fake, capsys):
    assert text in failure(capsys, *argv)
    assert not any("create" in call for call in calls(fake))


@pytest.mark.parametrize(
    "name, accelerator, outputs, state",
    [
        ("tpu", "v5e-16", [(False, "", "NOT_FOUND: x")], base.ABSENT),
        ("tpu", "v5e-16", [(False, "", "UNAUTHENTICATED")], base.UNKNOWN),
        ("tpu", "v5e-16", [(True, "PROVISIONING\n", "")], base.WAITING),
        ("tpu", "v5e-16", [(True, "SUSPENDED\n", "")], base.LOST),
        ("tpu", "v5e-16", [(True, "ACTIVE", ""), (True, "PREEMPTED", "")], base.LOST),
        ("tpu", "v5e-16", [(True, "ACTIVE", ""), (True, "READY", ""), (True, "langevin-run 0\n" * 4, "")], base.DONE),
        ("tpu", "v5e-16", [(True, "ACTIVE", ""), (True, "READY", ""), (True, "langevin-run 0\n", "")], base.UNKNOWN),
        ("tpu_vm", "v5e-16", [(True, "READY", ""), (True, "langevin-run none\n" * 4, "")], base.READY),
        ("gce", "tpu7x:2x2x2", [(False, "", "The resource 'x' was not found")], base.ABSENT),
        ("gce", "tpu7x:2x2x2", [(True, "RUNNING\nSTAGING\n", "")], base.WAITING),
        ("gce", "tpu7x:2x2x2", [(True, "RUNNING\nTERMINATED\n", "")], base.LOST),
        ("gce", "tpu7x:2x2x2", [(True, "RUNNING\nRUNNING\n", ""), (True, "langevin-run 1\n" * 2, "")], base.FAILED),
        ("slurm", "h100:8", [(True, "PENDING\n", ""), (True, "", "")], base.WAITING),
        ("slurm", "h100:8", [(True, "", ""), (True, "COMPLETED|0:0\n", "")], base.DONE),
        ("slurm", "h100:8", [(True, "", ""), (True, "FAILED|2:0\n", "")], base.REFUSED),
        ("slurm", "h100:8", [(True, "", ""), (True, "CANCELLED by 7|0:15\n", "")], base.REFUSED),
        ("slurm", "h100:8", [(True, "", ""), (True, "NODE_FAIL|1:0\nRUNNING|0:0\n", "")], base.RUNNING),
        ("slurm", "h100:8", [(True, "", ""), (True, "", "")], base.READY),
        ("ssh", "", [(True, "langevin-run 0\n", ""), (True, "langevin-run running\n", "")], base.RUNNING),
        ("ssh", "", [(True, "langevin-run died\n", ""), (True, "langevin-run running\n", "")], base.FAILED),
        ("ssh", "", [(True, "langevin-run 2\n", ""), (True, "langevin-run running\n", "")], base.REFUSED),
        ("ssh", "", [(False, "", "timed out"), (True, "langevin-run running\n", "")], base.UNKNOWN),
    ],
)
def test_how_a_job_stands_is_read_off_what_the_backend_says(name, accelerator, outputs, state):
    answers = iter([base.Answer(*output) for output in outputs])
    job = JOB._replace(accelerator=accelerator, hosts=("h0", "h1"))
    assert BACKENDS[name].observe(job, lambda step: next(answers)) == state


def test_a_group_of_instances_is_one_slice():
    job = JOB._replace(accelerator="tpu7x:2x2x2", spot=True)
    policy, template, group = map(str, BACKENDS["gce"].create(job))
    assert "--accelerator-topology=2x2x2" in policy and "--region=us-east5 " in policy
    assert "--machine-type=tpu7x-standard-4t" in template and "--provisioning-model=SPOT" in template
    assert "--size=2" in group and "--target-size-policy-mode=bulk" in group
    assert "--workload-policy=projects/p/regions/us-east5/resourcePolicies/a" in group
    assert len(BACKENDS["gce"].create(job._replace(accelerator="tpu7x:2x2x1"))) == 2  # one machine needs no policy


def test_sky_file_is_yaml_that_says_the_same():
    job = JOB._replace(accelerator="v6e-16", spot=True)
    written = yaml.safe_load(BACKENDS["sky"].run(job)[0].text)
    assert written["resources"] == {
        "accelerators": "tpu-v6e-16",
        "accelerator_args": {"runtime_version": "v2-alpha-tpuv6e"},
        "infra": "gcp/us-east5/us-east5-a",
        "use_spot": True,
    }
    assert written["run"].strip() == "exec .venv/bin/python main.py --config=c.py --workdir=gs://b/a"
    nodes = yaml.safe_load(BACKENDS["sky"].run(job._replace(accelerator="h100:8", nodes=2))[0].text)
    assert nodes["num_nodes"] == 2 and nodes["resources"]["accelerators"] == "H100:8"
    told = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    shown = bash(nodes["run"].replace("exec .venv/bin/python", "echo"), "/", **told).stdout.split()
    assert shown[-3:] == ["--coordinator=10.0.0.1:8476", "--num_processes=2", "--process_id=1"]


def test_ssh_hosts_are_told_how_to_find_each_other():
    steps = list(map(str, BACKENDS["ssh"].run(JOB._replace(hosts=("me@h0", "h1")))))
    assert [step.split()[:6][-1] for step in steps] == ["me@h0", "h1"]
    for i, step in enumerate(steps):
        assert f"--coordinator=h0:8476 --num_processes=2 --process_id={i}" in step
    assert "--coordinator" not in str(BACKENDS["ssh"].run(JOB._replace(hosts=("h0",)))[0])


def test_slurm_script_goes_back_into_the_queue_when_the_run_was_told_to_go(tmp_path):
    job = JOB._replace(accelerator="h100:8", nodes=2, hours=4, partition="gpu")
    text = BACKENDS["slurm"].run(job)[0].text
    assert {"--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--time=4:00:00", "--partition=gpu"} <= set(
        re.findall(r"^#SBATCH (\S+)$", text, re.M)
    )
    program(tmp_path, "scontrol", f'/bin/sh\necho "$@" > {tmp_path}/requeued\n')
    for status, requeued in ((0, False), (143, True)):
        program(tmp_path, "srun", f"/bin/sh\nexit {status}\n")
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7"}
        assert subprocess.run(["bash", "-c", text], env=environment).returncode == status
        assert (tmp_path / "requeued").exists() == requeued


def bash(script, home, **more):
    environment = {"HOME": str(home), "PATH": f"{home}:{os.environ['PATH']}", **more}
    return subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)


def stands(job, home):
    return remote.verdict(bash(remote.probe(job), home).stdout, 1)


def wait_for(state, job, home):
    for _ in range(200):
        if (now := stands(job, home)) == state:
            return
        time.sleep(0.05)
    raise AssertionError(f"{now} instead of {state}")


def test_a_run_on_a_machine_is_begun_seen_stopped_and_begun_again(tmp_path):
    script = "import os, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
    script += (
        "open('ready', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.02)\nsys.exit(int(open('go').read()))"
    )
    job = JOB._replace(command=("-S", "-c", script))
    place = remote.Place(str(tmp_path), sys.executable)
    assert stands(job, tmp_path) == base.READY
    for status, state in (("0", base.DONE), ("2", base.REFUSED)):
        (tmp_path / "go").unlink(missing_ok=True)
        assert bash(remote.begin(job, place), tmp_path).returncode == 0
        assert stands(job, tmp_path) == base.RUNNING
        (tmp_path / "go").write_text(status)
        wait_for(state, job, tmp_path)
    for name in ("go", "ready"):
        (tmp_path / name).unlink()
    bash(remote.begin(job, place), tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:  # until the program handles the signal
        time.sleep(0.02)
    bash(remote.stop(job), tmp_path)
    wait_for(base.FAILED, job, tmp_path)
    assert (tmp_path / "langevin-runs" / "a.exit").read_text().strip() == "143"


def test_setup_brings_the_commit_and_a_python_of_its_own(tmp_path):
    origin, home = tmp_path / "origin", tmp_path / "home"
    home.mkdir()
    git = ("git", "-c", "user.name=n", "-c", "user.email=e", "-C", str(origin))
    subprocess.run(("git", "init", "--quiet", str(origin)), check=True)
    (origin / "requirements-tpu.txt").write_text("jax\n")
    subprocess.run((*git, "add", "."), check=True)
    subprocess.run((*git, "commit", "--quiet", "-m", "m"), check=True)
    subprocess.run((*git, "bundle", "create", "--quiet", str(home / remote.BUNDLE), "HEAD"), check=True)
    told = f'echo "$@" >> {home}/told; if [ $1 = venv ]; then mkdir -p .venv/bin; '
    program(home, "uv", f"/bin/bash\n{told} printf '#!/bin/sh\\nexec {sys.executable} \"$@\"\\n' > .venv/bin/python; ")
    with open(home / "uv", "a") as file:
        file.write("chmod +x .venv/bin/python; fi\n")
    job = JOB._replace(python=f"{sys.version_info.major}.{sys.version_info.minor}")
    for _ in range(2):  # what is there is kept
        result = bash(remote.setup(job, "requirements-tpu.txt"), home)
        assert result.returncode == 0, result.stderr
        assert "the image has Python 3" in result.stdout and re.search(r"ready: Python 3\.\d+\.\d+ jax ", result.stdout)
    assert (home / "langevin" / "requirements-tpu.txt").exists()
    assert [line.split()[0] for line in (home / "told").read_text().splitlines()] == (
        ["python", "venv", "pip", "python", "pip"]
    )
