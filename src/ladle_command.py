"""The ``ladle`` command: readies a process that is ours alone, then hands over to ``ladle.cli``.

It stands outside the package, because what it sets must be set before torch is loaded, and a library must not
set it: importing ``ladle`` changes nothing.
"""

from __future__ import annotations

import ctypes
import os
import sys


def prepare() -> None:
    """Make this process run nets well.

    * OpenMP's threads wait for each other by sleeping soon instead of spinning. With anything else running on the
      machine, spinning threads make two threads several times slower than one.
    * Freed memory is kept for the next step (glibc only): large tensors are otherwise given back to the system and
      faulted in again, page by page, at every step.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
            trim_threshold, mmap_threshold = -1, -3
            libc.mallopt(mmap_threshold, 1 << 30)
            libc.mallopt(trim_threshold, (1 << 31) - 1)
        except (OSError, AttributeError):  # another C library: nothing to set
            return


def main() -> None:
    """Run the command line."""
    prepare()
    try:
        from ladle.cli import main as run  # torch takes a second or two
    except KeyboardInterrupt:
        print("ladle: interrupted", file=sys.stderr)
        sys.exit(130)
    run()
