"""The order of the tests, and how hypothesis runs here: no deadlines on shared machines, few examples for mutants."""

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from sqlalchemy import Dialect
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import LRUCache

from pdp.serving import calls
from registry_store.database import transactions

COLLECTED_AFTER = (20_000, 10, 10)
"""With Python's default, which begins at 700 objects, garbage collection is a tenth of the time of many tests."""
settings.register_profile(
    "here",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
settings.register_profile(
    "mutation",
    settings.get_profile("here"),
    max_examples=25,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
)
LONGEST = (
    "tests/registry_store/rest/test_openapi.py",
    "tests/registry_store/rest/test_pages.py",
    "tests/hostile/",
    "tests/project/",
    "tests/registry_store/records/test_compiling.py",
    "tests/registry_store/rest/test_lists.py",
    "tests/registry_store/sync/test_concurrent_stores.py",
    "tests/pdp/test_dev.py",
    "tests/pdp/test_sidecar.py",
    "tests/both/",
)


def pytest_collection() -> None:
    """Almost nothing that collecting the tests makes is garbage."""
    gc.disable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the modules that take longest first, so that no worker is left alone with one at the end."""
    items.sort(
        key=lambda item: next((n for n, path in enumerate(LONGEST) if item.nodeid.startswith(path)), len(LONGEST))
    )


def pytest_collection_finish() -> None:
    """Keep what lives to the end, thousands of tests and all modules, out of every full garbage collection."""
    gc.enable()
    gc.set_threshold(*COLLECTED_AFTER)
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def quick_stops() -> Iterator[None]:
    """Let servers stop without a tenth of a second for calls on their way, of which there are none in most tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "QUIET_SECONDS", 0.005)
        yield


@pytest.fixture(scope="session", autouse=True)
def compiled_once() -> Iterator[None]:
    """Let all stores of one kind of database share their compiled SQL, of which each engine has its own.

    Compiling it anew for each of a thousand stores is a tenth of the time of their tests.
    """
    compiled: dict[type[Dialect], LRUCache[Any, Any]] = {}
    create = transactions.create_async_engine

    def create_sharing(*args: Any, **kwargs: Any) -> AsyncEngine:
        engine = create(*args, **kwargs)
        cache = compiled.setdefault(type(engine.dialect), LRUCache(2000))
        engine.sync_engine._compiled_cache = cache
        return engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transactions, "create_async_engine", create_sharing)
        for dialect in (SQLiteDialect_aiosqlite, PGDialect_asyncpg):  # part of the key of the cache
            patch.setattr(dialect, "__eq__", lambda one, other: type(one) is type(other))
            patch.setattr(dialect, "__hash__", lambda one: hash(type(one)))
        yield


settings.load_profile(os.environ.get("PDP_HYPOTHESIS_PROFILE", "here"))
