"""What an evaluator yields with a name."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Result(NamedTuple):
    """A number and what it depends on: counts, seeds, features, as plain values for JSON."""

    value: float
    settings: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The number with its settings beside it, for evaluation.json."""
        return {"value": float(self.value), **self.settings}
