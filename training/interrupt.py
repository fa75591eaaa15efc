"""SIGTERM and SIGINT, noticed between steps: the first asks the loop to save and go, a second kills as usual."""

import signal


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

    def __enter__(self):
        self.previous = {signum: signal.signal(signum, self._note) for signum in self.signals}
        return self

    def __exit__(self, *exception):
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)

    def _note(self, signum, frame):
        self.signum = signum
        self.__exit__()

    def check(self) -> None:
        """Raises Interrupted if a signal came. Whoever works for long between steps calls it now and then."""
        if self.signum is not None:
            raise Interrupted(self.signum)
