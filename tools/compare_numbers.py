"""Two evaluations side by side: every number of both, and which of the things that it depends on differ.

    python -m tools.compare_numbers runs/a/evaluation.json runs/b/evaluation.json

A star marks a number that differs in more than what all of them differ in.
"""

import json
import sys

from etils import epath

from evaluation.provenance import comparison


def read(path: str) -> dict:
    """A report. Raises ValueError for a file that is none."""
    try:
        report = json.loads(epath.Path(path).read_text())
        if report["results"].keys() and report["settings"].keys():
            return report
        raise KeyError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} is no evaluation.json: it needs results and settings") from None


def main(argv: list[str]) -> None:
    if len(argv) != 3 or argv[1].startswith("-"):
        print(__doc__)
        sys.exit(0 if "--help" in argv else 2)
    try:
        for line in comparison(*map(read, argv[1:])):
            print(line)
    except (ValueError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv)
