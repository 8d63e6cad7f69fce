"""What follows a change, while its answer waits."""

from pathlib import Path

import pytest

from tests.registry_store.conftest import settings_in
from tests.registry_store.serving import served

REGISTRY = "/api/agents/registry"


def test_a_change_is_told_before_it_is_answered(tmp_path: Path) -> None:
    """Each request that writes is told with the newest revision; reads and refusals are not."""
    told: list[int] = []

    async def note(revision: int) -> None:
        told.append(revision)

    with served(settings_in(tmp_path), after_change=note) as store:
        admin = store.rest()
        admin.register("told-of-prod")
        assert told == [1]
        assert admin.put(f"{REGISTRY}/told-of-prod", {"tags": ["x"]}).body["revision"] == told[-1] == 2
        assert admin.put(f"{REGISTRY}/told-of-prod", {"tags": ["x"]}).status == 200
        assert told == [1, 2, 2]
        admin.get(f"{REGISTRY}/told-of-prod")
        assert admin.put(f"{REGISTRY}/told-of-prod", {"tags": 5}).status == 422
        assert told == [1, 2, 2]


def test_a_fault_after_a_change_does_not_undo_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is committed is answered as done, and the fault is logged."""

    async def fail(revision: int) -> None:
        raise RuntimeError("nobody listens")

    with served(settings_in(tmp_path), after_change=fail) as store:
        admin = store.rest()
        admin.register("committed-all-the-same")
        assert admin.get(f"{REGISTRY}/committed-all-the-same").status == 200
    assert "nobody listens" in caplog.text
