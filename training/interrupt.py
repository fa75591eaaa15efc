"""SIGTERM and SIGINT, noticed between steps: the first asks the loop to save and go, a second kills as usual.

Several processes go together: JAX's preemption service tells all of them that one was asked, and at which check they
stop, the first that none has passed. It owns SIGTERM, so that only SIGKILL kills then.
"""

import os
import signal

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):
    """Raised by `check` after a signal; `signum` is its number."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Interrupt:
    """A context in which the two signals are noted instead of obeyed."""

    signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.signum = None
        self.previous = {}
        self.together = jax.distributed.is_initialized() and jax.process_count() > 1  # tools touch no device
        self.checks = 0

    def __enter__(self):
        handlers = {signal.SIGINT: pass_on} if self.together else dict.fromkeys(self.signals, self._note)
        self.previous = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
        return self

    def __exit__(self, *exception):
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)

    def _note(self, signum, frame):
        self.signum = signum
        self.__exit__()

    def check(self) -> None:
        """Raises Interrupted if a signal came. Whoever works for long between steps calls it now and then.

        All processes call it equally often: the number of the call is what they agree on.
        """
        self.checks += 1
        if self.together and multihost_utils.reached_preemption_sync_point(self.checks):
            self.signum = signal.SIGTERM
        if self.signum is not None:
            raise Interrupted(self.signum)


def pass_on(signum, frame) -> None:
    """Ctrl-C on one host of several: what the preemption service listens to."""
    os.kill(os.getpid(), signal.SIGTERM)
