"""Decision ids as points in time: UUIDs of version 7, whose text sorts by the millisecond of creation."""

from datetime import datetime, timedelta

from registry_store.database.columns import EPOCH

PATTERN = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
MILLISECOND = timedelta(milliseconds=1)


def first(moment: datetime) -> str:
    """The lower bound of the ids created at or after `moment`, rounded up to a millisecond."""
    milliseconds = max(0, -((EPOCH - moment) // MILLISECOND))
    digits = f"{milliseconds:012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000"
