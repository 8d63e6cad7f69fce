"""libfaketime, which gives a program another wall clock.

`python -m tests.hostile.faketime` says how to install it where it is missing; with `installed`, exit code 1 says so.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
MISSING = "libfaketime is not installed; the tests of clocks need: apt-get install --yes faketime"


def skewed(offset: str) -> Mapping[str, str]:
    """The environment of a program whose wall clock is ahead, or behind, by so much: `+400d`, `-2h`.

    Without the library the test is skipped, and in CI, which skips nothing, it fails.
    """
    if not LIBRARIES:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    return {"LD_PRELOAD": str(LIBRARIES[0]), "FAKETIME": offset, "DONT_FAKE_MONOTONIC": "1"}


if __name__ == "__main__" and not LIBRARIES:
    sys.exit(MISSING) if "installed" in sys.argv else sys.stderr.write(f"{MISSING}\n")
