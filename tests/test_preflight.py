"""Buckets are tried first, within a stated time; one that fails is one line. No bucket was at hand: these are fakes."""

import time

import pytest

import preflight
from configs import digits


class Store:
    """A folder under an address that looks like a bucket's; `fail` is what its calls do instead."""

    def __init__(self, root, fail=None):
        self.root, self.fail, self.calls = root, fail, []

    def __call__(self, address):
        self.calls.append(address)
        if self.fail:
            self.fail()
        return self.root / address.replace("://", "/")


def refuse():
    raise PermissionError("403 Forbidden\nfor this account")


@pytest.fixture
def store(tmp_path, monkeypatch):
    store = Store(tmp_path)
    monkeypatch.setattr(preflight.epath, "Path", store)
    return store


class Flags:
    workdir, out, compilation_cache = "gs://runs/a", None, "gs://caches"


def test_places_are_the_buckets_of_a_run_and_what_it_does_there():
    config = digits.get_config("tiny")
    config.data.path, config.init_from = "gs://data/set", "runs/local"
    config.distill.teacher = "gs://runs/b"
    assert preflight.places(config, Flags) == {
        "gs://data/set": False, "gs://runs/b": False, "gs://runs/a": True, "gs://caches": True,
    }  # fmt: skip


def test_a_bucket_that_answers_is_left_as_it_was(store):
    preflight.check({"gs://runs/a": True})
    assert list((store.root / "gs/runs/a").iterdir()) == []


def test_no_bucket_no_probe(store):
    preflight.check({})
    assert store.calls == []


@pytest.mark.parametrize("writing, verb", [(True, "written"), (False, "read")])
def test_a_bucket_that_refuses_is_one_line(store, writing, verb):
    store.fail = refuse
    with pytest.raises(ValueError, match=f"gs://runs cannot be {verb}: 403 Forbidden for this account") as refused:
        preflight.check({"gs://runs": writing})
    assert "\n" not in str(refused.value)


def test_a_place_to_read_that_is_not_there_is_refused(store):
    with pytest.raises(ValueError, match="gs://data cannot be read"):
        preflight.check({"gs://data": False})


def test_a_bucket_that_does_not_answer_is_given_up_in_time(store):
    store.fail = lambda: time.sleep(5)
    began = time.monotonic()
    with pytest.raises(ValueError, match="gs://a cannot be written: no answer within 0.2 s"):
        preflight.check({"gs://a": True, "gs://b": True}, seconds=0.2)
    assert time.monotonic() - began < 2
