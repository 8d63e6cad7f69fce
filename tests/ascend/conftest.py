"""Each way to a sidecar, for the tests that take one."""

import pytest

from tests.ascend.ways import NOWHERE, WAYS


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def nowhere(way: str) -> str:
    """An address of this way at which nobody listens."""
    return NOWHERE[way]
