"""Memory in pages of 2 MB, for which the C library must be asked before a process begins."""

import os
import sys

TUNABLE = "glibc.malloc.hugetlb"


def restart() -> None:
    """Starts this program again, as the same process, with huge pages; on Linux, once.

    XLA on a CPU asks the system for the memory of every step anew, and filling in pages of 4 kB took a third of a step
    of the digits. GLIBC_TUNABLES that names the tunable is left alone: glibc.malloc.hugetlb=0 keeps small pages. Where
    the C library or the kernel has no such thing, nothing comes of it.
    """
    given = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and TUNABLE not in given:
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, (given, f"{TUNABLE}=1")))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
