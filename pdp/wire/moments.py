"""Times on the wire: Unix seconds ↔ protobuf's timestamps and RFC 3339."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp


def write_moment(message: Timestamp, seconds: float) -> None:
    """Sets a timestamp to a time in Unix seconds."""
    message.FromMicroseconds(round(seconds * 1_000_000))


def read_moment(message: Timestamp) -> float:
    """The time of a timestamp, in Unix seconds."""
    return message.ToMicroseconds() / 1_000_000


def instant(wall: float) -> str:
    """A time in Unix seconds as RFC 3339 in UTC, to the microsecond."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
