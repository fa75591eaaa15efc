"""What the tools' command lines share: every option is a flag, and a mistake is one line and exit status 2."""

import sys
from collections.abc import Callable

from absl import flags


def read_flags(argv: list[str], doc: str, define: Callable[[dict], None]) -> flags.FlagValues:
    """The options. define(add) defines them, passing **add on; ValueError or flags.Error for what is wrong."""
    found = flags.FlagValues()  # its own: several tools in one process keep their names
    define({"flag_values": found})
    if "--help" in argv:
        print(doc, found.get_help(), sep="\n")
        sys.exit()
    unknown = found(argv)[1:]
    if unknown:
        raise ValueError(f"unexpected argument {unknown[0]!r}; every option is a flag, --name=value")
    return found


def parse_flags(argv: list[str], doc: str, define: Callable[[dict], None]) -> dict:
    """The options by name, as read_flags has them."""
    return read_flags(argv, doc, define).flag_values_dict()


def run(argv: list[str], doc: str, define: Callable[[dict], None], act: Callable[[dict], str]) -> None:
    """Prints what act(options) says."""
    try:
        said = act(parse_flags(argv, doc, define))
    except (flags.Error, ValueError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    print(said)
