"""One store for the tests of a module; each test uses ids of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_store.settings import Settings
from tests.registry_store.serving import Rest, Served, served


def settings_in(folder: Path, **changed: object) -> Settings:
    """Settings of a store on SQLite in this folder, on free ports."""
    values = {"database": f"sqlite:///{folder / 'registry.db'}", "http": "127.0.0.1:0", "grpc": "127.0.0.1:0"}
    return Settings(**{**values, **changed})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(settings_in(tmp_path_factory.mktemp("store"))) as running:
        yield running


@pytest.fixture(scope="module")
def admin(store: Served) -> Rest:
    return store.rest("admin")
