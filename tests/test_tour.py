"""docs/tour.ipynb from top to bottom, on a run that was not trained."""

import json
import pathlib

import numpy as np

import workdir as records
from configs import digits
from experiment import build
from training.checkpoint import Checkpoints

TOUR = pathlib.Path(__file__).parents[1] / "docs" / "tour.ipynb"


def test_the_tour_runs_and_every_picture_is_one(tmp_path, monkeypatch):
    config = digits.get_config("tiny")
    config.model.update(channels=8, blocks=1, attention=())
    config.sampling.update(steps=12, batch_size=24)
    records.write_config(tmp_path, config)
    checkpoints = Checkpoints(tmp_path, keep=1, keep_every=0)
    checkpoints.save(1, build(config).init())
    checkpoints.close()
    monkeypatch.setenv("LANGEVIN_WORKDIR", str(tmp_path))
    names, pictures = {}, 0
    for cell in json.loads(TOUR.read_text())["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            assert cell["outputs"] == [] and cell["execution_count"] is None
            lines = source.rstrip().splitlines()
            if lines[-1].startswith("show("):
                lines[-1], pictures = f"picture = {lines[-1]}", pictures + 1
            exec("\n".join(lines), names)
            if "picture" in names:
                assert np.asarray(names.pop("picture")).ndim == 2
    assert pictures == 10
