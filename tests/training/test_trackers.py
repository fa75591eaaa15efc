"""Metrics go to every writer; Weights & Biases gets them under the names and steps that the workdir has."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from training.trackers import All, Wandb


class Fake:
    """wandb as far as it is used, recording."""

    def __init__(self):
        self.calls, self.config, self.summary = [], self, {}

    def init(self, **options):
        self.options = options
        return self

    def Image(self, image):
        return ("image", image.shape)

    def log(self, values, step):
        self.calls.append((step, values))

    def update(self, values, allow_val_change):
        self.calls.append(("config", values))

    def finish(self):
        self.calls.append("finished")


def test_a_run_is_logged_and_a_resume_goes_on_in_it(monkeypatch):
    fakes = [Fake(), Fake()]
    for fake in fakes:
        monkeypatch.setitem(sys.modules, "wandb", fake)
        run = Wandb("project", "runs/a")
        run.write_hparams({"optim.lr": 1e-3})
        run.write_scalars(5, {"loss": 0.5})
        run.write_images(5, {"samples": np.zeros((4, 4, 3), np.uint8)})
        run.write_texts(0, {"parameters": "| a |"})
        run.flush()
        run.close()
        expected = [(5, {"loss": 0.5}), (5, {"samples": ("image", (4, 4, 3))}), "finished"]
        assert fake.calls == [("config", {"optim.lr": 1e-3}), *expected]
        assert fake.options["project"] == "project" and fake.options["resume"] == "allow"
    identity = fakes[0].options["id"]
    assert fakes[1].options["id"] == identity
    Wandb("project", "runs/b")
    assert fakes[1].options["id"] != identity


def test_without_wandb_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="log.wandb=p needs wandb: pip install wandb"):
        Wandb("p", "runs/a")


def test_every_writer_gets_every_call():
    seen = []
    writers = [SimpleNamespace(write_scalars=lambda *args, i=i: seen.append((i, *args))) for i in range(2)]
    All(*writers).write_scalars(3, {"loss": 1.0})
    assert seen == [(0, 3, {"loss": 1.0}), (1, 3, {"loss": 1.0})]
