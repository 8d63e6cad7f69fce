"""The errors that the database and the connection to it raise, and what they mean."""

import sqlite3

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

FAILURES = (SQLAlchemyError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""Errors of the database and the connection to it; any other error is a bug in this program."""
UNAVAILABLE = (
    OperationalError,
    InterfaceError,
    PoolTimeout,
    OSError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
)
"""Errors of a lost or overloaded database; `OSError` comes from connecting, the driver's `InternalClientError` from a
connection that broke at a bad moment."""
CONFLICTS = ("40001", "40P01")
"""SQLSTATEs of a serialisation failure and a deadlock: the same transaction may succeed on retry."""
LOCK_TIMEOUT = "55P03"
SQLITE_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
UNAVAILABLE_STATES = (*CONFLICTS, LOCK_TIMEOUT, "08", "25006", "53", "57")
"""Prefixes of SQLSTATEs for server errors: lost, read-only after a failover, exhausted, lock time-out, stopping."""


def is_unavailable(error: BaseException) -> bool:
    """Whether the database caused the error, not the statement."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(error, UNAVAILABLE) or _state(error).startswith(UNAVAILABLE_STATES)


def is_conflict(error: BaseException) -> bool:
    """Whether the transaction conflicted with another one, and may succeed on retry."""
    return _state(error) in CONFLICTS


def is_contention(error: BaseException) -> bool:
    """Whether another transaction was in the way: a conflict, or a lock that was not free in time."""
    # The code of SQLite without the part that extends it.
    sqlite_code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0) & 0xFF
    return sqlite_code in SQLITE_LOCKED or is_conflict(error) or _state(error) == LOCK_TIMEOUT


def reason_of(error: BaseException) -> str:
    """The error of the database in one line, without the statement and its values."""
    return str(getattr(error, "orig", None) or error).partition("\n")[0] or type(error).__name__


def _state(error: BaseException) -> str:
    """The SQLSTATE of an error of SQLAlchemy, or of the driver itself; empty: it has none."""
    return getattr(getattr(error, "orig", error), "sqlstate", None) or ""
