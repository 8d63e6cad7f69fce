"""What the database and the way to it raise, and what each of it means."""

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

FAILURES = (SQLAlchemyError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What the database and the way to it raise; whatever else is raised is a fault of this program."""
UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeout, OSError, asyncpg.InternalClientError)
"""What a lost or overloaded database raises; the operating system's errors come from connecting to it, and the driver's
own from a connection that was cut off at a bad moment."""
CONFLICTS = ("40001", "40P01")
"""SQLSTATEs of a serialisation failure and a deadlock: the same transaction may pass the next time."""
UNAVAILABLE_STATES = (*CONFLICTS, "08", "25006", "53", "55P03", "57")
"""How SQLSTATEs begin that blame the server: lost, read-only after a failover, exhausted, locked for long, stopping."""


def is_unavailable(error: BaseException) -> bool:
    """Whether the database, and not the statement, is at fault."""
    if isinstance(error, DBAPIError) and (error.connection_invalidated or _state(error).startswith(UNAVAILABLE_STATES)):
        return True
    return isinstance(error, UNAVAILABLE)


def is_conflict(error: BaseException) -> bool:
    """Whether the transaction met another one, and may pass when it is run anew."""
    return isinstance(error, DBAPIError) and _state(error) in CONFLICTS


def reason_of(error: BaseException) -> str:
    """Why the database fails, in one line and without the statement and its values."""
    return str(getattr(error, "orig", None) or error).partition("\n")[0] or type(error).__name__


def _state(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""
