"""SQLite by its own driver, for transactions that run in a thread as a whole.

`aiosqlite` hands each call to a thread of its own, four for a statement, which takes longer than most statements.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from sqlalchemy import URL, QueuePool, create_engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

Result = TypeVar("Result")

IN_THREAD = "in_thread"
"""Key in `session.info` of a session that is used in a thread, without an event loop."""


Work = Callable[[AsyncSession], Coroutine[Any, Any, Result]]
"""A transaction that awaits calls of its session and nothing else."""


class Blocking:
    """Connections of SQLite's own driver, for transactions that run in a thread; `options` are those of the engine."""

    def __init__(self, url: URL, pool_size: int, **options: Any) -> None:
        options["connect_args"] = options.get("connect_args", {}) | {"check_same_thread": False}
        driver = url.set(drivername="sqlite+pysqlite")
        self.engine = create_engine(driver, poolclass=QueuePool, pool_size=pool_size, **options)

    def writing(self, work: Work[Result]) -> Result:
        """The result of `work`, which is committed."""
        with self._session() as session, session.begin():
            return _result(work(cast("AsyncSession", _Session(session))))

    def reading(self, work: Work[Result]) -> Result:
        """The result of `work`, which writes nothing."""
        with self._session() as session:
            return _result(work(cast("AsyncSession", _Session(session))))

    def close(self) -> None:
        """Closes the connections."""
        self.engine.dispose()

    def _session(self) -> Session:
        return Session(self.engine, expire_on_commit=False, info={IN_THREAD: True})


async def aside(session: AsyncSession, work: Callable[..., Result], *arguments: Any) -> Result:
    """The result of `work`, which takes a while, so it is done in a thread: in this one, if the session is."""
    if session.info.get(IN_THREAD):
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


class _AtOnce:
    """The calls of an `AsyncSession` or `AsyncConnection` on a synchronous one; each is done when it is made."""

    def __init__(self, synchronous: Any) -> None:
        self._synchronous = synchronous

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._synchronous, name)
        if name not in _AWAITED:
            return member

        async def call(*arguments: Any, **options: Any) -> Any:
            return member(*arguments, **options)

        return call


class _Session(_AtOnce):
    async def connection(self) -> "_Connection":
        return _Connection(self._synchronous.connection())


class _Connection(_AtOnce):
    @asynccontextmanager
    async def begin_nested(self) -> AsyncIterator[None]:
        with self._synchronous.begin_nested():
            yield


def _result(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        work.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    work.close()
    raise RuntimeError("a transaction in a thread waits for something else than its session")


_AWAITED = frozenset(("get", "get_one", "execute", "scalar", "scalars", "flush", "exec_driver_sql"))
"""What is awaited of a session or a connection; any other member is as that of the synchronous one."""
