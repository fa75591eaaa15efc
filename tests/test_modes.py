"""What the modes write, without a training."""

import types

import numpy as np
import pytest
from ml_collections import ConfigDict

import drawing
import workdir as records
from configs import digits
from experiment import build
from modes.train import begin
from modes.weights import asked_settings


def test_samples_over_the_limit_are_numbered_shards_of_the_same_rows(tmp_path, monkeypatch):
    images = np.arange(10 * 4 * 4 * 3, dtype=np.uint32).astype(np.uint8).reshape(10, 4, 4, 3)
    monkeypatch.setattr(drawing, "SHARD_BYTES", 3 * images[0].nbytes)
    drawing.write_samples(tmp_path, images, None, np.arange(10))
    files = sorted(tmp_path.glob("*.npz"))
    assert [file.name for file in files] == [f"samples_{k:05}_of_00004.npz" for k in range(4)]
    shards = [np.load(file) for file in files]
    assert np.array_equal(np.concatenate([shard["images"] for shard in shards]), images)
    assert np.array_equal(np.concatenate([shard["seeds"] for shard in shards]), np.arange(10))
    assert set(np.concatenate([shard["labels"] for shard in shards])) == {-1}


def asked(label, classes=10, task="class", tmp_path="nowhere"):
    config = ConfigDict({"data": {"classes": classes}, "task": {"name": task}})
    return drawing.asked_condition(label, config, tmp_path, np.arange(20))


def test_labels_are_given_balanced_or_the_training_sets(tmp_path):
    assert set(asked("3")[0]["label"]) == {3}
    assert np.all(np.bincount(asked("balanced")[0]["label"]) == 2)
    assert asked(None, tmp_path=tmp_path)[1] == "uniform"
    records.record_start(tmp_path, mode="train", data={"label_counts": [0, 5, 0]})
    condition, source = asked(None, classes=3, tmp_path=tmp_path)
    assert set(condition["label"]) == {1} and source == "training set's"
    assert asked(None, task="unconditional", classes=0) == ({}, "none")


@pytest.mark.parametrize("label", ["10", "-1", "seven", "1.0"])
def test_a_label_that_is_none_is_refused(label):
    with pytest.raises(ValueError, match="from 0 to 9"):
        asked(label)


def test_a_config_survives_its_file(tmp_path):
    config = digits.get_config()
    records.write_config(tmp_path, config)
    read = records.read_config(tmp_path)
    assert read.to_dict() == config.to_dict() and records.differences(config, read) == {}
    assert isinstance(read.model.multipliers, tuple)
    config.sampling.guidance = None
    records.write_config(tmp_path, config)
    read = records.read_config(tmp_path)
    read.sampling.guidance = 2
    assert read.sampling.guidance == 2.0


FREE = {"train.steps": 7, "data.path": "elsewhere", "checkpoint.every": 1, "log.every": 1, "sampling.steps": 9,
        "optim.accumulate": 2, "model.remat": "blocks", "model.flash": True, "optim.max_skipped": 2,
        "ema.snapshot_every": 5}  # fmt: skip
SHAPING = {"seed": 1, "train.batch_size": 32, "model.channels": 64, "optim.lr": 1.0, "task.drop": 0.2,
           "diffusion.weighting": "min_snr", "ema.warmup": False, "ema.sigma_rels": (0.05,), "data.name": "folder",
           "init_from": "x", "distill.teacher": "x"}  # fmt: skip


@pytest.mark.parametrize("key", [*FREE, *SHAPING])
def test_a_resume_may_change_what_does_not_shape_the_result(key):
    stored, config = digits.get_config(), digits.get_config()
    config.update_from_flattened_dict({key: (FREE | SHAPING)[key]})
    if key in FREE:
        assert list(records.check_resume(config, stored, allow=False)) == [key]
    else:
        with pytest.raises(ValueError, match=key):
            records.check_resume(config, stored, allow=False)
        assert list(records.check_resume(config, stored, allow=True)) == [key]


def test_a_training_set_that_changed_is_another_run():
    facts = {"size": 10, "classes": ["a", "b"], "digest": "1"}
    records.check_data(facts, dict(facts))
    records.check_data(facts, None)
    records.check_data(facts, {"size": 10})
    with pytest.raises(ValueError, match=r"\(size, digest differ: 11 images then, 10 now\)"):
        records.check_data(facts, facts | {"size": 11, "digest": "2"})


def test_an_older_runs_config_gets_the_knobs_that_came_since(tmp_path):
    stored = digits.get_config().to_dict()
    del stored["log"]["profile_from"], stored["evaluation"]
    records.write_json(tmp_path / "config.json", stored)
    read = records.read_config(tmp_path)
    assert read.log.profile_from == 0 and read.evaluation.samples and read.model.channels == stored["model"]["channels"]


def test_a_knob_that_changed_its_type_is_named(tmp_path):
    stored = digits.get_config().to_dict()
    stored["model"]["remat"] = False
    records.write_json(tmp_path / "config.json", stored)
    with pytest.raises(ValueError, match="model.remat=False is of an older version"):
        records.read_config(tmp_path)


def test_a_workdir_takes_one_training_at_a_time(tmp_path):
    held = records.lock(tmp_path)
    with pytest.raises(ValueError, match="another training writes into"):
        records.lock(tmp_path)
    held.close()
    records.lock(tmp_path).close()


@pytest.mark.parametrize("text", ["", "{"])
def test_a_damaged_record_is_named(tmp_path, text):
    for name in ("config.json", "run.json"):
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="config.json is damaged"):
        records.read_config(tmp_path)
    with pytest.raises(ValueError, match="run.json is damaged"):
        records.last_start(tmp_path, "train")


def test_flags_beat_the_config():
    def flag(value):
        return types.SimpleNamespace(value=value)

    flags = {"sampler": flag("ancestral"), "steps": flag(None), "guidance": flag(0.0)}
    settings = asked_settings(digits.get_config(), flags)
    assert settings.sampler == "ancestral" and settings.steps == 50 and settings.guidance == 0.0


def test_a_start_from_nothing_is_refused_before_anything_compiles(tmp_path, monkeypatch):
    monkeypatch.setitem(begin.__globals__, "compiling", lambda *_: pytest.fail("a compilation has begun"))
    config = digits.get_config("tiny")
    config.init_from = str(tmp_path / "none")
    with pytest.raises(ValueError, match="no checkpoints in .*none"):
        begin(config, build(config), tmp_path / "run")
