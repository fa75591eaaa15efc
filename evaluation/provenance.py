"""What differs between two numbers: a number is what it was computed from, and two of other origin are not compared."""

from collections.abc import Iterator, Mapping
from typing import Any

# Of a report's settings: when and how it was asked for, which changes no number.
INCIDENTAL = ("at", "command")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def origin(report: Mapping, name: str) -> dict[str, Any]:
    """All that one of a report's numbers depends on, by dotted name: its own settings, then the report's."""
    own = {key: value for key, value in report["results"][name].items() if key not in OUTCOMES}
    shared = {key: value for key, value in report["settings"].items() if key not in INCIDENTAL}
    return flatten(shared) | flatten(own)


OUTCOMES = ("value", "deviation", "standard_error", "of_reference", "rank_deficient")  # found, not chosen


def differing(a: Mapping, b: Mapping, name: str) -> dict[str, tuple]:
    """{setting: (in a, in b)} where the two reports' numbers of this name differ in what they depend on."""
    here, there = origin(a, name), origin(b, name)
    keys = sorted(here.keys() | there.keys())
    return {key: (here.get(key), there.get(key)) for key in keys if here.get(key) != there.get(key)}


def comparison(a: Mapping, b: Mapping) -> Iterator[str]:
    """The lines of a comparison: each number of both, and below the settings on which all or some of them differ."""
    common = [name for name in a["results"] if name in b["results"]]
    if not common:
        names = " and ".join(", ".join(report["results"]) or "none" for report in (a, b))
        raise ValueError(f"the two have no number in common: {names}")
    found = {name: differing(a, b, name) for name in common}
    everywhere = {key: pair for key, pair in found[common[0]].items() if all(found[n].get(key) == pair for n in common)}
    for name in common:
        own = {key: pair for key, pair in found[name].items() if key not in everywhere}
        values = [report["results"][name]["value"] for report in (a, b)]
        yield f"{name:<24} {shown(values[0]):>12} {shown(values[1]):>12}" + (" *" if own else "")
        yield from (f"    * {key}: {x} | {y}" for key, (x, y) in own.items())
    yield from (f"all differ in {key}: {x} | {y}" for key, (x, y) in everywhere.items())
    if not any(found.values()):
        yield "the same settings: what differs between the numbers is not in them"
    for which, report, other in ("first", a, b), ("second", b, a):
        if alone := [name for name in report["results"] if name not in other["results"]]:
            yield f"in the {which} alone: {', '.join(alone)}"


def shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"
