"""What comes from outside cannot pass for an entry of either program's log."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from pdp.serving import logs

HOSTILE = "n\n2026-11-28 12:00:00,000 INFO pdp.sync.subscriber: all is well\r\x1b[2J\x85\u2028\u202e\x00\ud800"
LOG = logging.Logger("of no parent")
"""Of its own, so that pytest does not capture what no report of pytest-xdist could carry: half of a surrogate pair."""
ESCAPED = "n\\n2026-11-28 12:00:00,000 INFO pdp.sync.subscriber: all is well\\r\\x1b[2J\\x85\\u2028\\u202e\\x00\\ud800"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What a log in the plain format has come to."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logs.Plain())
    LOG.addHandler(handler)
    yield written
    LOG.removeHandler(handler)


def test_a_message_is_one_line(lines: io.StringIO) -> None:
    """Line breaks and whatever else does not show are escapes; text in any language is left as it is."""
    LOG.warning("sidecar `%s` refuses `%s`", HOSTILE, "Überweisung 决定")
    (line,) = lines.getvalue().splitlines()
    assert line.endswith(f"sidecar `{ESCAPED}` refuses `Überweisung 决定`")
    assert line.isprintable()


def test_a_traceback_is_indented(lines: io.StringIO) -> None:
    """Also where the error's own text has line breaks: no line but the first begins like an entry."""
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        LOG.exception("a fault")
    first, *others = lines.getvalue().removesuffix("\n").split("\n")
    assert first.endswith("a fault")
    assert others
    assert all(line.startswith("  ") and line.isprintable() for line in others)


def test_json_is_one_line_as_well() -> None:
    """JSON escapes by itself."""
    record = logging.makeLogRecord({"msg": "sidecar %s", "args": (HOSTILE,)})
    line = logs.JsonLines().format(record)
    assert line.isprintable()
    assert json.loads(line)["message"] == f"sidecar {HOSTILE}"
