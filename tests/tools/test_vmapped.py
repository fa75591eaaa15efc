"""Cells trained in one program are the cells trained one by one; and a cell is resumed by either."""

import importlib
import json
import signal
import types

import jax
import numpy as np
import pytest

from modes import train
from tools.sweeps import vmapped
from tools.sweeps.cells import is_done, make_cell
from training import sharding

STEPS = 10
OVERRIDES = ({"seed": 0}, {"seed": 1}, {"seed": 1, "optim.lr": 1e-2})


@pytest.fixture(scope="module")
def one_device():
    """The tests' eight devices are one here, as in a process of its own; compiled in half the time."""
    patch = pytest.MonkeyPatch()
    whole = sharding.make_mesh
    patch.setattr(sharding, "make_mesh", lambda asked, devices=None: whole(asked, jax.devices()[:1]))
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    patch.undo()


def cells(folder):
    def config():
        config = importlib.import_module("configs.digits").get_config("tiny")
        config.model.update(channels=8, groups=4, multipliers=(1,), attention=())
        config.train.update(steps=STEPS, batch_size=4)
        config.log.update(samples_every=0, validation_every=STEPS)
        config.checkpoint.every = 4
        return config

    return [make_cell(config(), overrides, folder) for overrides in OVERRIDES]


def metrics(cell):
    return [json.loads(line) for line in (cell.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def together(tmp_path_factory, one_device):
    found = cells(tmp_path_factory.mktemp("together"))
    assert vmapped.groups(found) == [found]
    assert vmapped.train_together(found) == {}
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory, one_device):
    found = cells(tmp_path_factory.mktemp("alone"))
    for cell in found:
        train(cell.config, types.SimpleNamespace(workdir=str(cell.folder), allow_config_change=False))
    return found


def test_losses_equal_those_of_cells_trained_alone(together, alone):
    for one, other in zip(together, alone, strict=True):
        assert is_done(one) and is_done(other)
        losses = [[line["loss"] for line in metrics(cell) if "loss" in line] for cell in (one, other)]
        assert len(losses[0]) == STEPS
        np.testing.assert_allclose(*losses, rtol=0, atol=1e-5)


def test_final_figures_differ_by_far_less_than_over_seeds(together, alone):
    finals = [[metrics(cell)[-1]["validation_loss/raw"] for cell in cells] for cells in (together, alone)]
    over_seeds = abs(finals[1][0] - finals[1][1])
    assert over_seeds > 1e-3
    np.testing.assert_allclose(*finals, rtol=0, atol=over_seeds / 100)


def test_an_interrupted_group_is_resumed_alone(tmp_path, together, alone, monkeypatch):
    """Saved in one program at step 5, gone on with in main.py's: the same run, no step twice."""

    looks = iter(range(100))

    def check(self):
        if next(looks) == 4:
            raise vmapped.Interrupted(signal.SIGTERM)

    monkeypatch.setattr(vmapped.Interrupt, "check", check)
    found = cells(tmp_path)
    with pytest.raises(vmapped.Interrupted):
        vmapped.train_together(found)
    assert not any(map(is_done, found))
    monkeypatch.undo()
    cell, other = found[2], alone[2]
    train(cell.config, types.SimpleNamespace(workdir=str(cell.folder), allow_config_change=False))
    assert is_done(cell)
    lines = [[line for line in metrics(one) if "loss" in line] for one in (cell, other)]
    assert [line["step"] for line in lines[0]] == list(range(1, STEPS + 1))
    np.testing.assert_allclose(*([line["loss"] for line in one] for one in lines), rtol=0, atol=1e-5)


def test_a_cell_that_diverges_stops_alone(tmp_path, together):
    found = cells(tmp_path)
    bad = found[2].config
    bad.optim.lr, bad.optim.max_skipped = 1e30, 3
    found[0].config.optim.max_skipped = found[1].config.optim.max_skipped = 3
    (name,) = vmapped.train_together(found)
    assert name == found[2].name and [is_done(cell) for cell in found] == [True, True, False]
    losses = [[line["loss"] for line in metrics(one) if "loss" in line] for one in (found[0], together[0])]
    np.testing.assert_array_equal(*losses)
