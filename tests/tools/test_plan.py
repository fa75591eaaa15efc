"""Plans: what is known is exact, what is estimated moves as it must, and mistakes are one line before anything runs."""

import importlib.metadata
import re
import sys

import pytest

from configs import digits
from tools import ahead, plan
from tools.estimate import estimate

TINY = ("--config=configs/digits.py:tiny", "--config.model.multipliers=1,", "--config.model.attention=()")


def config(**sections):
    made = digits.get_config("tiny")
    made.model.update(channels=32, multipliers=(1,), blocks=1, attention=(), groups=4, num_heads=2)
    for section, values in sections.items():
        made[section].update(values)
    return made


def test_what_is_known_is_exact():
    found = estimate(config(), 4)
    assert found.parameters == 163_585 and found.averages == 1
    assert 0 < found.state - 4 * 4 * found.parameters < 64  # parameters, average, two moments, and counters
    assert found.gradients == 4 * found.parameters
    assert found.operations == estimate(config(model={"remat": "blocks"}), 4).operations


def test_a_data_parallel_step_sends_every_gradient_twice_around_a_ring():
    assert estimate(config(), 4).sent == pytest.approx(2 * 3 / 4 * 4 * 163_585, rel=1e-3)


def test_activations_follow_the_batch_the_chips_and_what_is_recomputed():
    base = estimate(config(train={"batch_size": 16}), 1)
    double = estimate(config(train={"batch_size": 32}), 1)
    assert double.activations == pytest.approx(2 * base.activations, rel=0.02)
    assert estimate(config(train={"batch_size": 32}), 2).activations == base.activations
    assert estimate(config(train={"batch_size": 16}, model={"remat": "blocks"}), 1).activations < base.activations
    halves = estimate(config(train={"batch_size": 32}, optim={"accumulate": 2}), 1)
    assert base.activations <= halves.activations < 0.7 * double.activations


def test_fsdp_divides_the_state_and_its_traffic_is_counted():
    whole, split = (estimate(config(mesh={"data": 1, "fsdp": n}), n) for n in (1, 8))
    assert split.state < 0.25 * whole.state and split.gradients < 0.25 * whole.gradients
    assert split.sent > 2 * estimate(config(), 8).sent * 0.7  # two gathers and a scatter against one sum


@pytest.fixture
def command(capsys, monkeypatch):
    """Runs the tool with arguments -> what it says, on stdout or, failing, on stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["plan", *TINY, *arguments])  # where config flags look
        plan.main(sys.argv)
        return capsys.readouterr().out

    return run


def test_a_plan_says_what_it_needs_and_what_is_estimated(command):
    said = command("--topology=v5e:2x2")
    for part in ("v5e:2x2: 4 chips on 1 host", "mesh: data 4, fsdp 1, tensor 1", "parameters", "model FLOPs", "fits",
                 "~activations", "at the peaks", "chip-hours", "nothing compiled"):  # fmt: skip
        assert part in said
    assert "Traceback" not in said


def test_what_does_not_fit_comes_with_what_would_make_it_fit(command, monkeypatch):
    small = plan.CHIPS["v5e"]._replace(memory=3 * 2**20)
    monkeypatch.setitem(plan.CHIPS, "v5e", small)
    said = command("--topology=v5e:2x2")
    assert "does NOT fit" in said and "--config.mesh.fsdp=4" in said


MISTAKES = {
    "there is no such slice of v5e": ("--topology=v5e:3x3",),
    "no chip 'v99'": ("--topology=v99:2x2",),
    "train.batch_size=8 does not divide over 16": ("--topology=v5e:4x4",),
    "multiply to 3, which does not divide the 4 devices": ("--topology=v5e:2x2", "--config.mesh.fsdp=3"),
    "works for TPU slices alone": ("--topology=h100:2", "--compile"),
    "config key 'mesh.fsdpp' is unknown": ("--topology=v5e:2x2", "--config.mesh.fsdpp=2"),
    "--topology": (),
    "unexpected argument": ("--topology=gpu", "stray"),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_one_line(command, capsys, message):
    with pytest.raises(SystemExit) as left:
        command(*MISTAKES[message])
    said = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2 and message in said[-1] and said[-1].startswith("error: ")


def test_without_libtpu_compiling_says_what_to_install(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(ahead.importlib.metadata, "version", absent)
    with pytest.raises(ValueError, match=re.escape("pip install 'jax[tpu]'")):
        ahead.compiled(config(), plan.parse_slice("v5e:2x2"), 1.0, "unused")


def test_a_compilation_is_stopped_in_time_and_kept_by_program(tmp_path):
    pytest.importorskip("libtpu")
    slice_ = plan.parse_slice("v5e:2x2")
    with pytest.raises(ValueError, match="not compiled in 1 s"):
        ahead.compiled(config(), slice_, 1.0, str(tmp_path))
    facts = ahead.compiled(config(), slice_, 300.0, str(tmp_path))
    assert facts["memory"]["arguments"] > 4 * 4 * 163_585 and facts["bytes_accessed"] > 1e6
    assert facts["memory"]["arguments"] < facts["hbm_bytes"]
    assert facts["collectives"]["all-reduce"]["bytes"] >= 4 * 163_585
    assert ahead.compiled(config(), slice_, 60.0, str(tmp_path)) == facts
    assert len(list(tmp_path.glob("*.json"))) == 1
