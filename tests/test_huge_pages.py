"""A program starts again once, as the same process with the same arguments, when huge pages have to be asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import huge_pages

SCRIPT = """
import os, sys, huge_pages
print(os.getpid(), sys.argv[1:], sys.flags.optimize, flush=True)
huge_pages.restart()
"""
ROOT = str(Path(huge_pages.__file__).parent)


def lines(tunables):
    """What the script prints, a line each time it starts."""
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"} | {"PYTHONPATH": ROOT}
    environment |= {} if tunables is None else {"GLIBC_TUNABLES": tunables}
    command = [sys.executable, "-O", "-c", SCRIPT, "--a=b c", "d"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are asked for on Linux alone")
@pytest.mark.parametrize("tunables, starts", [(None, 2), ("glibc.malloc.check=0", 2), ("glibc.malloc.hugetlb=0", 1)])
def test_it_starts_again_once_as_the_same_process(tunables, starts):
    said = lines(tunables)
    assert len(said) == starts and len(set(said)) == 1
    assert said[0].endswith("['--a=b c', 'd'] 1")


def test_what_was_asked_of_the_c_library_stays(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    started = []
    monkeypatch.setattr(os, "execv", lambda *command: started.append(command))
    huge_pages.restart()
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=0:glibc.malloc.hugetlb=1"
    assert started == [(sys.executable, [sys.executable, *sys.orig_argv[1:]])]
    huge_pages.restart()
    assert len(started) == 1
