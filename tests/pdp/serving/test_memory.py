"""Memory that was freed, as the C library keeps it."""

import subprocess
import sys

import pytest

from tests.pdp.serving import freeing


@pytest.mark.parametrize(("arguments", "heaps", "is_mapped"), [(["fixed"], 1, True), ([], 1 + freeing.THREADS, False)])
def test_freed_memory_is_not_kept_for_each_thread(arguments: list[str], heaps: int, is_mapped: bool) -> None:
    """Threads share one heap, and a large block is mapped apart though a larger one was freed; by default neither."""
    command = [sys.executable, "-m", freeing.__name__, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    found_heaps, mapped_bytes = map(int, ended.stdout.split())
    assert (found_heaps, mapped_bytes >= freeing.KEPT_BYTES) == (heaps, is_mapped)
