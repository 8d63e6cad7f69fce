"""Pages of curl commands: run as printed against a fresh store, compared with what the page shows, or written anew.

`python -m tests.registry_store.commands docs/reference/registry.md` writes into the page what was printed.
"""

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests import console
from tests.console import Command, Dev
from tests.registry_store.conftest import settings_in
from tests.registry_store.reporting import IDS, Log, decision, report
from tests.registry_store.serving import Served, served

# What differs from run to run; a later command may name what an earlier one printed.
VARYING = re.compile(
    r"(?P<uuid>\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b)"
    r"|(?P<alert>\balert_[0-9a-f-]{36}\b)"
    r"|(?P<key>owkai_[0-9a-f]{16}_[\w-]{43})"
    r"|(?P<policy>\bpol_[0-9a-f]{32})"
    r"|(?P<stop>\bstop_[0-9a-f]{32})"
    r"|(?P<hash>\b[0-9a-f]{64}\b)"
    r"|(?P<key_id>(?<=[\"/])[0-9a-f]{16}\b)"
    r"|(?P<time>\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z)"
    r"|(?P<date>(?<=date: )[^\r\n]+)"
)


class Session:
    """The commands of one page, on one store, to which a sidecar has reported what it `decided` at this time."""

    def __init__(self, store: Served, at: datetime) -> None:
        report(store, *decided(at), log=Log("payments-pod-1"))
        self._dev = Dev(store.running.http_address, "", "", store.key("admin", "root"))
        self._real: dict[str, str] = {}

    def named(self, text: str) -> str:
        """A command with the ids of this run in place of those that the page shows."""
        return VARYING.sub(lambda found: self._real.get(found[0], found[0]), text)

    def printed(self, command: Command) -> str:
        """What the command prints, run with the ids of this run."""
        printed = console.printed(Command(self.named(command.text), ""), self._dev).replace("\r", "")
        shown, real = VARYING.findall(command.shown), VARYING.findall(printed)
        if len(shown) == len(real):
            self._real |= {"".join(old): "".join(new) for old, new in zip(shown, real, strict=True)}
        return printed


def decided(at: datetime) -> list[dict[str, Any]]:
    """One decision of each outcome, the newest last; the last two ask people for an approval."""
    book = {"action_type": "transaction.process", "resource": "ledger", "amount": 250.0, "estimated_cost_usd": 2.5}
    pay = book | {"resource": "banking_api", "amount": 7500.0}
    drain = pay | {"amount": 90000.0, "risk_score": 95}
    first, second = (IDS.next(at.timestamp()) for _ in range(2))
    return [
        decision("block", at=at, action={"action_type": "database.drop", "resource": "ledger"}),
        decision("allow", at=at, action=book, cost_micros=2_500_000),
        decision("require_approval", at=at, action=pay, opens=first, params={"approvers": ["finance-leads"]}),
        decision("escalate", at=at, action=drain, opens=second),
    ]


def runs(command: Command) -> bool:
    """Whether a command is run; the others are there to be read."""
    return command.text.startswith("curl ")


def steady(text: str) -> str:
    """A text with the kind of each varying part in its place, and members of objects in one order.

    PostgreSQL keeps no order of the members of what callers write (`conditions`, `metadata`).
    """
    lines = [_ordered(line) for line in text.splitlines()]
    return VARYING.sub(lambda found: f"<{found.lastgroup}>", "\n".join(lines))


def _ordered(line: str) -> str:
    return json.dumps(json.loads(line), sort_keys=True) if line.startswith("{") else line


def rewritten(page: str, session: Session) -> str:
    """The page with what its commands print now, and its commands with the ids that were printed."""
    for command in console.commands(page):
        if runs(command):
            shown = f"$ {command.text}\n{command.shown}"
            page = page.replace(shown, f"$ {session.named(command.text)}\n{session.printed(command)}", 1)
    return page


def main(names: list[str]) -> None:
    """Write the pages anew, each against a store of its own."""
    for name in names:
        with TemporaryDirectory() as folder, served(settings_in(Path(folder))) as store:
            path = Path(name)
            path.write_text(rewritten(path.read_text(), Session(store, datetime.now(UTC))))


if __name__ == "__main__":
    main(sys.argv[1:])
