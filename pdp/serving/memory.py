"""How the C library keeps memory that was freed, for a process that runs for months beside its agent."""

import ctypes
from contextlib import suppress

ARENA_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD = -8, -3, -1
"""Parameters of mallopt(3), by their names in malloc.h."""
LARGE_BYTES = 1 << 20


def return_freed() -> None:
    """Make freed memory of threads and of large blocks go back to the system; nothing where glibc is not the library.

    By default a thread that finds the lock taken gets an arena of its own, which keeps what its largest batch took. And
    one freed block of some megabytes raises the size from which blocks are mapped apart, so that later ones stay in
    the heap. With fixed values glibc does neither. To be called before threads are started.
    """
    with suppress(OSError, AttributeError):  # musl has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(ARENA_MAX, 1)
        mallopt(MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(TRIM_THRESHOLD, LARGE_BYTES)
