"""The image, once for all tests of it."""

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.image import images

MISSING = "tests of the image need root, buildah and mmdebstrap: apt-get install --yes buildah mmdebstrap"


@pytest.fixture(scope="session")
def image() -> Iterator[images.Image]:
    """Built, or named by IMAGE. Without the tools the tests are skipped, and in CI, which skips nothing, they fail."""
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("buildah", "mmdebstrap")):
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    with images.opened() as opened:
        yield opened
