"""What a process that runs for months beside its agent need not hold: memory that was freed, code of its start."""

import ctypes
from contextlib import suppress
from mmap import MADV_DONTNEED
from pathlib import Path

ARENA_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD = -8, -3, -1
"""Parameters of mallopt(3), by their names in malloc.h."""
LARGE_BYTES = 1 << 16
"""Batches of decisions have several times of it: in the heap, small blocks between them keep it from shrinking."""
MAPS = Path("/proc/self/maps")
CODE = "r-xp"
"""The permissions of machine code, as proc_pid_maps(5) shows them."""


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


def release_code() -> None:
    """Unmap the machine code of programs and libraries; what runs again is mapped again from the page cache.

    The start runs much code that nothing runs later. Code is never written, so nothing is lost; and Python unloads no
    library, so nothing else can take the place of a mapping meanwhile.
    """
    with suppress(OSError, AttributeError):  # the system has no /proc, or no madvise
        madvise = ctypes.CDLL(None).madvise
        for line in MAPS.read_text().splitlines():
            addresses, permissions, _, _, _, *file = line.split(maxsplit=5)
            if permissions == CODE and file and file[0].startswith("/"):
                first, end = (int(address, 16) for address in addresses.split("-"))
                madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), MADV_DONTNEED)
