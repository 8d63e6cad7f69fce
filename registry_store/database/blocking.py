"""SQLite by its own driver, for transactions that run in a thread as a whole.

`aiosqlite` hands each call to a thread of its own, four for a statement, which takes longer than most statements.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from sqlalchemy import URL, Connection, Dialect, Engine, QueuePool, create_engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

Result = TypeVar("Result")

IN_THREAD = "in_thread"
"""Key in `session.info` of a session that is used in a thread, without an event loop."""


class Blocking:
    """One connection of SQLite's own driver, for transactions that run in a thread.

    `prepare` is called with the engine before it connects; `options` are those of a connection.
    """

    def __init__(self, url: URL, prepare: Callable[[Engine], None], options: dict[str, Any], wait: float) -> None:
        self._engine = create_engine(
            url.set(drivername="sqlite+pysqlite"),
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=0,
            pool_timeout=wait,
            hide_parameters=True,
            connect_args=options | {"check_same_thread": False},
        )
        prepare(self._engine)

    def transaction(self, work: Callable[[AsyncSession], Coroutine[Any, Any, Result]]) -> Result:
        """The result of `work`, a transaction that awaits calls of its session and nothing else."""
        with Session(self._engine, expire_on_commit=False, info={IN_THREAD: True}) as session, session.begin():
            return _result(work(cast("AsyncSession", _Session(session))))

    def close(self) -> None:
        """Closes the connection."""
        self._engine.dispose()


async def aside(session: AsyncSession, work: Callable[..., Result], *arguments: Any) -> Result:
    """The result of `work`, which takes a while, so it is done in a thread: in this one, if the session is."""
    if session.info.get(IN_THREAD):
        return work(*arguments)
    return await asyncio.to_thread(work, *arguments)


class _Session:
    """The calls of an `AsyncSession` that such transactions use; each is done when it is awaited."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.info = session.info
        self.get_bind = session.get_bind

    async def execute(self, *arguments: Any, **options: Any) -> Any:
        return self._session.execute(*arguments, **options)

    async def scalar(self, *arguments: Any, **options: Any) -> Any:
        return self._session.scalar(*arguments, **options)

    async def scalars(self, *arguments: Any, **options: Any) -> Any:
        return self._session.scalars(*arguments, **options)

    async def connection(self) -> "_Connection":
        return _Connection(self._session.connection())


class _Connection:
    """The same of an `AsyncConnection`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def dialect(self) -> Dialect:
        return self._connection.dialect

    async def execute(self, *arguments: Any) -> Any:
        return self._connection.execute(*arguments)

    async def exec_driver_sql(self, *arguments: Any) -> Any:
        return self._connection.exec_driver_sql(*arguments)

    @asynccontextmanager
    async def begin_nested(self) -> AsyncIterator[None]:
        with self._connection.begin_nested():
            yield


def _result(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        work.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    work.close()
    raise RuntimeError("a transaction in a thread waits for something else than its session")
