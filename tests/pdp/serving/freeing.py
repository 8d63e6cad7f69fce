"""Prints how many heaps the C library has after some threads allocated, and how many bytes it has mapped apart.

With the argument `fixed` it does so after `return_freed`.
"""

import ctypes
import re
import sys
import threading
from tempfile import TemporaryFile

from pdp.serving.memory import return_freed

THREADS = 4
FREED_BYTES, KEPT_BYTES = 16 << 20, 8 << 20

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fflush.argtypes = [ctypes.c_void_p]


def allocate(meeting: threading.Barrier) -> None:
    """Allocates and frees while other threads that do so are alive."""
    libc.free(libc.malloc(1 << 10))
    meeting.wait()


def information() -> str:
    """What malloc_info(3) writes."""
    with TemporaryFile("w+") as file:
        stream = libc.fdopen(file.fileno(), b"w")
        libc.malloc_info(0, stream)
        libc.fflush(stream)
        file.seek(0)
        return file.read()


if __name__ == "__main__":
    if "fixed" in sys.argv:
        return_freed()
    libc.free(libc.malloc(FREED_BYTES))
    libc.malloc(KEPT_BYTES)
    meeting = threading.Barrier(THREADS)
    threads = [threading.Thread(target=allocate, args=[meeting]) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = information()
    mapped = re.findall(r'type="mmap" count="\d+" size="(\d+)"', found)[-1]
    sys.stdout.write(f"{found.count('<heap nr=')} {mapped}\n")
