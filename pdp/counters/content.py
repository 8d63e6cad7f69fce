"""The content of the frames of a counters file, as JSON."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from pdp.core.model import Now
from pdp.core.usage import Usage
from pdp.core.windows import Window
from pdp.counters.counters import Charges
from pdp.outcomes import ledger
from pdp.outcomes.ledger import Changes, Ledger, Whole

PART = 200


class Moment(NamedTuple):
    """One reading of the clocks; `latest` is the newest wall clock seen so far, advanced with the boot clock."""

    wall: float
    boot: float
    latest: float


class Saved(NamedTuple):
    """The content of a file as of `at`, in the boot with this id; another boot has another boot clock."""

    boot_id: str
    at: Moment
    lost_until: Now | None
    usage: dict[str, Usage]
    ledger: Ledger


def begun(boot_id: str, at: Moment, lost_until: Now | None) -> bytes:
    """The content of the first frame."""
    return _json({"boot_id": boot_id, "at": at, "lost_until": lost_until})


def added(at: Moment, usage: Mapping[str, Usage]) -> bytes:
    """The usage of these agents at that moment."""
    return _json({"at": at, "usage": {agent_id: _usage(one) for agent_id, one in usage.items()}})


def whole(at: Moment, everything: Whole) -> Iterator[bytes]:
    """Decisions, outcomes and suspensions as they were at that moment."""
    for changes in everything.parts():
        yield b'{"at":%s,"ledger":[%s]}' % (_json(at), ledger.encoded(changes))


def followed(at: Moment, charges: Mapping[str, Charges], changes: Changes | None) -> bytes:
    """What was charged up to that moment, and the ledger's changes."""
    # In parts: encoding many agents at once would hold Python's lock, and so delay decisions, for milliseconds.
    listed = ((agent_id, [_flat(one.actions), _flat(one.micros)]) for agent_id, one in charges.items())
    parts = []
    while part := dict(islice(listed, PART)):
        parts.append(_json(part)[1:-1])
    recorded = b",".join(map(ledger.encoded, changes.parts())) if changes else b""
    return b'{"at":%s,"charges":{%s},"ledger":[%s]}' % (_json(at), b",".join(parts), recorded)


def replayed(contents: Iterable[bytes]) -> Saved:
    """What a file says, by the contents of its frames.

    `ValueError`, `TypeError`, `LookupError` or `OverflowError` if they are of no program.
    """
    documents = map(json.loads, contents)
    first: dict[str, Any] = next(documents, {})
    usage: dict[str, Usage] = {}
    outcomes = Ledger()
    at = first["at"]
    for document in documents:
        at = document["at"]
        _replay_usage(usage, document)
        for part in document.get("ledger", ()):
            outcomes.apply(ledger.from_json(part, outcomes.decisions))
    lost_until = first["lost_until"]
    return Saved(first["boot_id"], Moment(*at), None if lost_until is None else Now(*lost_until), usage, outcomes)


def _replay_usage(usage: dict[str, Usage], document: Mapping[str, Any]) -> None:
    for agent_id, stored in document.get("usage", {}).items():
        usage[agent_id] = _read_usage(stored)
    for agent_id, (actions, micros) in document.get("charges", {}).items():
        charged = usage.setdefault(agent_id, Usage())
        for second, number in _pairs(actions):
            charged.count(second, number)
        for day, spent in _pairs(micros):
            if spent < 0:
                charged.settle(day, spent)
            else:
                charged.spend(day, spent)


def _usage(usage: Usage) -> list[list[int]]:
    windows = [[window.newest, *_flat(window.by_index())] for window in usage.windows]
    return [*windows, _flat(usage.micros_by_day)]


def _read_usage(stored: list[list[int]]) -> Usage:
    *windows, micros = stored
    widths = [window.bucket_seconds for window in Usage().windows]
    return Usage.of(
        [
            Window.of(width, newest, dict(_pairs(counts)))
            for width, (newest, *counts) in zip(widths, windows, strict=True)
        ],
        dict(_pairs(micros)),
    )


def _flat(counts: Mapping[int, int]) -> list[int]:
    return [number for pair in counts.items() for number in pair]


def _pairs(flat: list[int]) -> Iterable[tuple[int, int]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _json(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()
