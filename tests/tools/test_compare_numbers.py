"""Two evaluations beside each other: what differs is said, and where."""

import json

import pytest

from tools import compare_numbers

REFERENCE = {"data": "cifar10", "split": "train", "n": 50_000, "digest": "ab"}


def report(fid=3.0, settings=(), own=(), more=()):
    fid = {"value": fid, "n": 50_000, "reference": dict(REFERENCE)} | dict(own)
    results = {"fid": fid, "precision": {"value": 0.7, "n": 10_000, "deviation": fid["value"]}} | dict(more)
    shared = {"checkpoint": 7, "steps": 50, "guidance": None, "git": {"commit": "aa"}, "at": "now", "command": ["x"]}
    return {"results": results, "settings": shared | dict(settings)}


def lines(tmp_path, capsys, a, b):
    for name, content in ("a", a), ("b", b):
        (tmp_path / name).write_text(json.dumps(content))
    compare_numbers.main(["", str(tmp_path / "a"), str(tmp_path / "b")])
    return capsys.readouterr().out.splitlines()


def test_what_all_numbers_depend_on_is_said_once(tmp_path, capsys):
    other = report(4.0, {"steps": 20, "git": {"commit": "bb"}, "at": "later", "command": ["y"]})
    found = lines(tmp_path, capsys, report(), other)
    assert found[0].split() == ["fid", "3", "4"]
    assert found[2:] == ["all differ in git.commit: aa | bb", "all differ in steps: 50 | 20"]


def test_what_one_number_depends_on_is_said_below_it(tmp_path, capsys):
    own = {"n": 10_000, "reference": REFERENCE | {"split": "test"}}
    found = lines(tmp_path, capsys, report(), report(own=own, more={"sfid": {"value": 1.0}}))
    assert found[0].endswith("*") and found[1:3] == ["    * n: 50000 | 10000", "    * reference.split: train | test"]
    assert found[-1] == "in the second alone: sfid"


def test_equal_settings_are_said_to_be_equal(tmp_path, capsys):
    found = lines(tmp_path, capsys, report(3.0), report(3.1))
    assert found[-1] == "the same settings: what differs between the numbers is not in them"


@pytest.mark.parametrize(
    "content, said",
    [("{", "is no evaluation.json"), ("[]", "is no evaluation.json"), ('{"results": {}}', "is no evaluation.json")],
)
def test_another_file_is_refused(tmp_path, capsys, content, said):
    (tmp_path / "a").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        compare_numbers.main(["", str(tmp_path / "a"), str(tmp_path / "a")])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and said in error and error.count("\n") == 1


def test_reports_without_a_number_in_common_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        lines(tmp_path, capsys, report(), {"results": {"loss": {"value": 1}}, "settings": {"steps": 50}})
    assert "no number in common: fid, precision and loss" in capsys.readouterr().err
