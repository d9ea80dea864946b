"""The ``ladle`` command: configures the process, then runs ``ladle.cli``.

This module is outside the package because its settings must be made before torch is imported, and importing a library
must not change the process: ``import ladle`` sets none of them.
"""

from __future__ import annotations

import ctypes
import os
import sys


def prepare() -> None:
    """Configure this process for training.

    * OpenMP threads that wait for each other sleep after a short time instead of spinning. While other processes are
      running, two spinning threads are several times slower than one thread.
    * Freed memory is kept for the next step (glibc only). Otherwise large tensors are returned to the operating system,
      and every step causes page faults for them again.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
            trim_threshold, mmap_threshold = -1, -3
            libc.mallopt(mmap_threshold, 1 << 30)
            libc.mallopt(trim_threshold, (1 << 31) - 1)
        except (OSError, AttributeError):  # another C library
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
