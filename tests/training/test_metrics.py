"""metrics.jsonl, events and small files: each step stands once, whatever kills the run."""

import contextlib
import json
import os
import resource
import struct
import subprocess
import sys

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from training import metrics
from training.metrics import Silent, Writer, write_atomic, write_json


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def events(workdir):
    """Every event of every file, in order: records are [length 8][crc 4][data][crc 4]."""
    found = []
    for path in sorted(workdir.glob("events*tfevents*")):
        data = path.read_bytes()
        while data:
            length = struct.unpack("Q", data[:8])[0]
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def test_scalars_stand_in_both_files(tmp_path):
    writer = Writer(tmp_path / "new" / "run")
    writer.write_scalars(10, {"loss": np.float32(0.5), "images": np.int64(7)})
    assert lines(tmp_path / "new" / "run") == [{"step": 10, "loss": 0.5, "images": 7}]
    writer.close()
    scalars = {
        (event.step, value.tag): value.simple_value
        for event in events(tmp_path / "new" / "run")
        for value in event.summary.value
    }
    assert scalars == {(10, "loss"): 0.5, (10, "images"): 7.0}


def test_pictures_texts_and_hparams_are_events(tmp_path):
    writer = Writer(tmp_path)
    writer.write_images(3, {"one": np.zeros((8, 9, 1), np.uint8), "two": np.zeros((2, 8, 9, 3), np.uint8)})
    writer.write_texts(3, {"note": "words"})
    writer.write_hparams({"lr": 2e-4})
    writer.close()
    found = {value.tag: value for event in events(tmp_path) for value in event.summary.value}
    assert found.keys() >= {"one", "two/0", "two/1", "note/text_summary", "hparams/text_summary"}
    assert (found["two/1"].image.height, found["two/1"].image.width) == (8, 9)
    assert b"| lr | 0.0002 |" in found["hparams/text_summary"].tensor.string_val[0]


def test_a_resumed_run_has_each_step_once(tmp_path):
    first = Writer(tmp_path)
    for step in 10, 20, 30, 40:
        first.write_scalars(step, {"loss": step})
    first.flush()
    second = Writer(tmp_path, step=20)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20]
    for step in 30, 40:
        second.write_scalars(step, {"loss": -step})
    second.close()
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30, 40]
    assert lines(tmp_path)[-1]["loss"] == -40
    starts = [event.step for event in events(tmp_path) if event.session_log.status]
    assert starts == [1, 21] and len(list(tmp_path.glob("events*"))) == 2


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n{"step": 2, "lo')
    Writer(tmp_path, step=5).write_scalars(6, {"loss": 1})
    assert [line["step"] for line in lines(tmp_path)] == [1, 6]


def test_lines_are_on_disk_before_a_kill(tmp_path):
    program = (
        "import os, sys; from training.metrics import Writer; writer = Writer(sys.argv[1]);"
        "writer.write_scalars(1, {'loss': 1.0}); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path])
    assert done.returncode == -9 and lines(tmp_path) == [{"step": 1, "loss": 1.0}]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32("nan")])
def test_values_that_are_not_finite_are_null_in_strict_json(tmp_path, value):
    Writer(tmp_path).write_scalars(1, {"loss": value})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"step": 1, "loss": None}


def test_arrays_are_refused_as_metrics_and_floats_as_pictures(tmp_path):
    with pytest.raises(ValueError, match=r"^metric loss must be a scalar, got shape \(2,\)$"):
        Writer(tmp_path).write_scalars(1, {"loss": np.zeros(2)})
    with pytest.raises(ValueError, match="image grid must be uint8, got float64"):
        Writer(tmp_path).write_images(1, {"grid": np.zeros((8, 8, 1))})


def test_a_bucket_gets_the_whole_file_at_each_flush(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "in_bucket", lambda path: True)
    for start, steps in (0, (10, 20)), (10, (20, 30)):
        writer = Writer(tmp_path, step=start)
        for step in steps:
            writer.write_scalars(step, {"start": start})
        writer.close()
    assert [tuple(line.values()) for line in lines(tmp_path)] == [(10, 0), (20, 10), (30, 10)]


def test_a_json_file_is_replaced_whole_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "evaluation" / "one.json"
    for n in 1, 2:
        write_json(path, {"n": np.int64(n), "table": np.eye(2), "bad": [np.nan]})
    assert json.loads(path.read_text()) == {"n": 2, "table": [[1, 0], [0, 1]], "bad": [None]}
    assert os.listdir(path.parent) == ["one.json"]


@contextlib.contextmanager
def full_disk():
    """No file may grow past 1,000 bytes, as on a full disk (EFBIG for ENOSPC).

    Not a fixture: between a test and its clean-up pytest writes to its own output, which may be a file.
    """
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    path = tmp_path / "state.json"
    write_json(path, {"n": 1})
    with full_disk(), pytest.raises(OSError, match="cannot write .*state.json: .*large.*") as error:
        write_atomic(path, bytes(5000))
    assert "\n" not in str(error.value)
    assert json.loads(path.read_text()) == {"n": 1} and os.listdir(tmp_path) == ["state.json"]


def test_a_full_disk_ends_a_run_rather_than_hanging_it(tmp_path):
    writer = Writer(tmp_path)
    with full_disk(), pytest.raises(OSError, match="cannot write .*metrics.jsonl"):
        for step in range(100):
            writer.write_scalars(step, {"loss": 0.123456789})
    writer = Writer(tmp_path, step=5)
    assert [line["step"] for line in lines(tmp_path)] == [0, 1, 2, 3, 4, 5]


def test_a_place_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write .*file/run"):
        Writer(tmp_path / "file" / "run")


def test_a_silent_writer_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Silent().write_scalars(1, {"loss": 1.0})
    Silent().close()
    assert os.listdir(tmp_path) == []


def test_importing_the_module_imports_nothing_heavy():
    program = (
        "import sys, training.metrics, evaluation.small_images;"
        "print(*{'jax', 'sklearn', 'tensorboardX', 'scipy', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
