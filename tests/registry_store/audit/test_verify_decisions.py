"""`registry-store verify-decisions`: what somebody did to the decisions in the database is found, by name."""

import asyncio
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result

from registry_store import retention
from registry_store.audit import checkpointer
from registry_store.documents import instant
from registry_store.settings import Settings
from tests.registry_store.audit.test_audit import run
from tests.registry_store.conftest import settings_in
from tests.registry_store.reporting import Log, decision, ended, gap, report
from tests.registry_store.serving import Served, never, served
from tests.waiting import eventually

NODE = "node-1"
FIRST_RECEIVED = "(SELECT received_at FROM decision_batches WHERE node_id = 'node-1' AND number = 1)"


@dataclass
class Kept:
    """The decisions of two sidecars, no store running, and the checkpoints of their logs.

    `node-1` reported five batches of three decisions, the outcome of the first and a repeat; `node-2` one decision.
    """

    settings: Settings
    checkpoints: Path
    ids: list[str]

    def verify(self, *arguments: object) -> Result:
        """The command on the database."""
        where = ("--database", self.settings.database, "--pepper-file", self.settings.pepper_path())
        return run("verify-decisions", *where, *arguments)

    def verify_signed(self, *arguments: object) -> Result:
        """With the checkpoints."""
        return self.verify("--checkpoint-file", self.checkpoints, *arguments)

    def running(self) -> Any:
        """The store on this database, which signs checkpoints."""
        return served(replace(self.settings, checkpoint_file=self.checkpoints))

    def by_sql(self, *statements: str) -> None:
        """Somebody is at the database, while no store runs."""
        with served(self.settings) as store:
            for statement in statements:
                store.sql(statement.format(ids=self.ids))

    def tidy(self, after: timedelta) -> None:
        """Retention after this time, with a store that signs checkpoints."""
        with self.running() as store:
            running = store.running._store
            store.run(retention.tidy(running.database, running.settings.retention(), datetime.now(UTC) + after))


@pytest.fixture(autouse=True)
def by_hand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No store tidies up by itself between two lines of a test."""
    monkeypatch.setattr(retention, "run", never)


def written(settings: Settings, folder: Path) -> Kept:
    kept = Kept(settings, folder / "checkpoints.jsonl", [])
    with kept.running() as store:
        log = Log(NODE)
        for number in range(5):
            said = [decision("block" if number == 2 else "allow", cost_micros=number) for _ in range(3)]
            kept.ids += [one["decision_id"] for one in said]
            more = [ended(said[0]), said[1]] if number == 0 else [gap(1, 0, 0)] if number == 3 else []
            report(store, *said, *more, log=log)
        other = decision()
        kept.ids.append(other["decision_id"])
        report(store, other, log=Log("node-2"))
    return kept


@pytest.fixture
def kept(settings: Settings, tmp_path: Path) -> Kept:
    return written(settings, tmp_path)


@pytest.fixture
def own(tmp_path: Path) -> Kept:
    """On SQLite, where it is the checkpoints and not the database that matter."""
    return written(settings_in(tmp_path), tmp_path)


def test_sound_decisions_are_verified_in_one_line(kept: Kept) -> None:
    """Repeats and gaps are in order too; without checkpoints a second line says what they would show."""
    ended = kept.verify_signed()
    assert (ended.exit_code, ended.output) == (
        0,
        "the decisions are intact: 16 decisions and 1 outcomes in 6 batches of 2 sidecars\n",
    )
    alone = kept.verify()
    assert alone.exit_code == 0
    assert alone.output.splitlines()[1].startswith("not checked: `--checkpoint-file` is required")


TAMPERED: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "a decision deleted": (
        ("DELETE FROM decisions WHERE decision_id = '{ids[4]}'",),
        ["sidecar `node-1`: decision `{ids[4]}` was deleted"],
    ),
    "an outcome deleted": (
        ("DELETE FROM outcomes",),
        ["sidecar `node-1`: the outcome of decision `{ids[0]}` was deleted"],
    ),
    "a decision edited": (
        ("UPDATE decisions SET outcome = 'allow', reason = NULL WHERE decision_id = '{ids[6]}'",),
        [
            "sidecar `node-1`: decision `{ids[6]}` was changed: `outcome` is `allow`, the record says `block`,"
            " `reason` is not set, the record says `RESOURCE_BLOCKED`"
        ],
    ),
    "an outcome edited": (
        ("UPDATE outcomes SET result = 'failed'",),
        [
            "sidecar `node-1`: the outcome of decision `{ids[0]}` was changed: `result` is `failed`, the record says"
            " `succeeded`"
        ],
    ),
    "a decision under another id": (
        ("UPDATE decisions SET decision_id = '01920000-0000-7000-8000-000000000000' WHERE decision_id = '{ids[3]}'",),
        [
            "sidecar `node-1`: decision `{ids[3]}` was deleted",
            "sidecar `node-1`: decision `01920000-0000-7000-8000-000000000000` was inserted: no record of its batch has"
            " it",
        ],
    ),
    "two decisions swapped": (
        ("UPDATE decisions SET position = 2 - position WHERE decision_id IN ('{ids[3]}', '{ids[5]}')",),
        [
            "sidecar `node-1`: decision `{ids[3]}` was changed: it was moved from position 0 of its batch to 2",
            "sidecar `node-1`: decision `{ids[5]}` was changed: it was moved from position 2 of its batch to 0",
        ],
    ),
    "a decision moved to another batch": (
        (
            "UPDATE decisions SET batch_id = (SELECT batch_id FROM decision_batches WHERE node_id = 'node-2')"
            " WHERE decision_id = '{ids[8]}'",
        ),
        [
            "sidecar `node-1`: decision `{ids[8]}` was moved to another batch",
            "sidecar `node-2`: decision `{ids[8]}` was inserted: no record of its batch has it",
        ],
    ),
    "the last decisions deleted": (
        ("DELETE FROM decisions WHERE decision_id > '{ids[12]}' AND decision_id <= '{ids[14]}'",),
        ["sidecar `node-1`: decision `{ids[13]}` was deleted", "sidecar `node-1`: decision `{ids[14]}` was deleted"],
    ),
    "a batch deleted": (
        ("DELETE FROM decision_batches WHERE node_id = 'node-1' AND number = 3",),
        [
            "sidecar `node-1`: batch 3 was deleted, with records 9 to 11; the checkpoint of",
            "decision `{ids[6]}`: its batch was deleted",
            "decision `{ids[7]}`: its batch was deleted",
            "decision `{ids[8]}`: its batch was deleted",
        ],
    ),
    "batches deleted with their rows": (
        (
            "DELETE FROM decisions WHERE batch_id IN (SELECT batch_id FROM decision_batches WHERE node_id = 'node-1'"
            " AND number IN (2, 3))",
            "DELETE FROM decision_batches WHERE node_id = 'node-1' AND number IN (2, 3)",
        ),
        ["sidecar `node-1`: batches 2 to 3 were deleted, with records 6 to 11; the checkpoint of"],
    ),
    "the last batches deleted with their rows": (
        (
            "DELETE FROM decisions WHERE batch_id IN (SELECT batch_id FROM decision_batches WHERE node_id = 'node-1'"
            " AND number > 3)",
            "DELETE FROM decision_batches WHERE node_id = 'node-1' AND number > 3",
        ),
        ["sidecar `node-1`: batches 4 to 5 were deleted, with the records after 11: it was cut at the end"],
    ),
    "two batches swapped": (
        (
            "UPDATE decision_batches SET number = 99 WHERE node_id = 'node-1' AND number = 2",
            "UPDATE decision_batches SET number = 2 WHERE node_id = 'node-1' AND number = 3",
            "UPDATE decision_batches SET number = 3 WHERE node_id = 'node-1' AND number = 99",
        ),
        [
            "sidecar `node-1`: batch 2 (records 9 to 11) was changed, or moved",
            "sidecar `node-1`: batch 3 (records 6 to 8) was changed, or moved",
            "sidecar `node-1`: batch 4 (records 12 to 15) was changed, or moved",
        ],
    ),
    "a batch moved to another sidecar": (
        ("UPDATE decision_batches SET node_id = 'node-2', number = 2 WHERE node_id = 'node-1' AND number = 5",),
        [
            "sidecar `node-1`: batch 5 was deleted, with the records after 15: it was cut at the end",
            "sidecar `node-2`: batch 2 (records 16 to 18) was changed, or moved",
            "sidecar `node-2`: its batches were changed: its log ends at batch 1 with another head",
        ],
    ),
    "the content of a batch exchanged": (
        (
            "UPDATE decision_batches SET content = (SELECT content FROM decision_batches WHERE node_id = 'node-2')"
            " WHERE node_id = 'node-1' AND number = 2",
        ),
        [
            "sidecar `node-1`: batch 2 (records 6 to 8) was changed, or moved",
            "sidecar `node-1`: decision `{ids[15]}` was moved to another batch",
            *(
                f"sidecar `node-1`: decision `{{ids[{n}]}}` was inserted: no record of its batch has it"
                for n in (3, 4, 5)
            ),
        ],
    ),
    "the time of receipt of a batch changed": (
        (f"UPDATE decision_batches SET received_at = {FIRST_RECEIVED} WHERE node_id = 'node-1' AND number = 5",),
        ["sidecar `node-1`: batch 5 (records 16 to 18) was changed, or moved"],
    ),
    "a record said to be omitted": (
        (
            "UPDATE decision_batches SET omitted = '6' WHERE node_id = 'node-1' AND number = 2",
            "DELETE FROM decisions WHERE decision_id = '{ids[3]}'",
        ),
        ["sidecar `node-1`: batch 2 (records 6 to 8) was changed, or moved"],
    ),
    "the log of a sidecar deleted": (
        ("DELETE FROM decision_logs WHERE node_id = 'node-2'",),
        ["sidecar `node-2`: its log was deleted: up to where its batches were received is not known"],
    ),
    "everything of a sidecar deleted but its log": (
        (
            "DELETE FROM decisions WHERE decision_id = '{ids[15]}'",
            "DELETE FROM decision_batches WHERE node_id = 'node-2'",
        ),
        ["sidecar `node-2`: batch 1 was deleted, with the records after 0: it was cut at the end"],
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_tampering_is_named(kept: Kept, what: str) -> None:
    """Each finding is a line, and nothing else is found; the checkpoints are not needed."""
    statements, findings = TAMPERED[what]
    kept.by_sql(*statements)
    told = kept.verify_signed()
    lines = told.stderr.splitlines()
    right = [finding.format(ids=kept.ids) for finding in findings]
    assert told.exit_code == 1, told.output
    assert [line[: len(one)] for line, one in zip(lines, right, strict=False)] == right, told.stderr
    assert lines[len(right) :] == [f"the decisions were changed: {len(right)} finding{'' if len(right) == 1 else 's'}"]
    alone = kept.verify()
    assert alone.exit_code == 1
    assert [re.sub("; the checkpoint of .*", "", line) for line in lines] == alone.stderr.splitlines()


CUT = (
    "DELETE FROM decisions WHERE batch_id IN (SELECT batch_id FROM decision_batches WHERE node_id = 'node-1'"
    " AND number > 3)",
    "DELETE FROM decision_batches WHERE node_id = 'node-1' AND number > 3",
)


def lowered(store: Served) -> None:
    """The last two batches are cut off, and the log of the sidecar says that there were never more than three."""
    for statement in CUT:
        store.sql(statement)
    ((head,),) = store.sql("SELECT head FROM decision_batches WHERE node_id = 'node-1' AND number = 3")
    store.sql(
        f"UPDATE decision_logs SET batches = 3, sequence = 11, head = '{bytes(head).hex()}' WHERE node_id = 'node-1'"
    )


def test_a_cut_that_hides_itself_needs_checkpoints(kept: Kept) -> None:
    """The checkpoint has the batches that the log of the sidecar denies."""
    with served(kept.settings) as store:
        lowered(store)
    assert kept.verify().exit_code == 0
    told = kept.verify_signed()
    assert told.exit_code == 1
    missing = "sidecar `node-1`: batches 4 to 5 were deleted, with the records after 11: it was cut at the end"
    assert told.stderr.startswith(f"{missing}; the checkpoint of ")


def test_a_cut_is_found_though_the_store_went_on(kept: Kept) -> None:
    """A store that was started again neither signs over it nor forgets it, also when new batches take the places."""
    with served(kept.settings) as store:
        lowered(store)
    with kept.running() as store:
        ((last_hash,),) = store.sql("SELECT hash FROM decision_batches WHERE node_id = 'node-1' AND number = 3")
        store.sql(f"UPDATE decision_logs SET hash = '{bytes(last_hash).hex()}' WHERE node_id = 'node-1'")
        log = Log(NODE, 11, bytes(last_hash))
        for _ in range(3):
            report(store, decision(), log=log)
    assert kept.verify().exit_code == 0
    told = kept.verify_signed()
    assert told.exit_code == 1
    assert "sidecar `node-1`: its batches up to 5 were made anew: the checkpoint of " in told.stderr
    assert "sidecar `node-1`: its log was set back between the checkpoints of " in told.stderr


def test_a_running_store_reports_a_log_that_was_set_back(
    kept: Kept, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its next checkpoint, and signs that log no more."""
    monkeypatch.setattr(checkpointer, "LOGS_EVERY", 1_000_000)
    before = kept.checkpoints.stat().st_size
    with kept.running() as store:
        # Its first checkpoint has the log as it was.
        asyncio.run(eventually(lambda: kept.checkpoints.stat().st_size > before))
        lowered(store)
        size = kept.checkpoints.stat().st_size
    assert "the log of decisions of sidecar `node-1` was changed" in caplog.text
    assert "node-1" not in kept.checkpoints.read_bytes()[size:].decode()


def test_what_retention_deleted_is_told_apart(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no finding: a line says of each sidecar from where to where, how many, and until when it was received."""
    kept = Kept(settings, tmp_path / "checkpoints.jsonl", [])
    old = datetime.now(UTC) - timedelta(days=91)
    log, once = Log(NODE), Log("node-old")
    with monkeypatch.context() as at_that_time:
        for module in ("rpc.reports", "audit.checkpointer"):
            at_that_time.setattr(f"registry_store.{module}.datetime", SimpleNamespace(now=lambda _zone: old))
        with kept.running() as store:
            for _ in range(2):
                report(store, decision(), decision(), log=log)
            report(store, decision(), log=once)
    with kept.running() as store:
        report(store, decision(), log=log)
    kept.tidy(timedelta())
    for told in (kept.verify_signed(), kept.verify()):
        assert told.exit_code == 0, told.output
        assert told.output.splitlines()[:3] == [
            f"retention deleted of sidecar `node-1`: 4 records from 1 to 4, received until {instant(old)}",
            f"retention deleted of sidecar `node-old`: 1 records from 1 to 1, received until {instant(old)}",
            "the decisions are intact: 1 decisions and 0 outcomes in 1 batches of 2 sidecars",
        ]
    kept.by_sql("DELETE FROM decision_batches")
    assert kept.verify().stderr.startswith("sidecar `node-1`: batch 3 was deleted, with the records after 4")


def forged(store: Served, days: int) -> None:
    """The first three batches are deleted, and the log says that retention deleted what came in so many days ago."""
    ((head,),) = store.sql("SELECT head FROM decision_batches WHERE node_id = 'node-1' AND number = 3")
    for statement in CUT:
        store.sql(statement.replace("> 3", "<= 3"))
    store.sql("DELETE FROM outcomes")
    old = datetime.now(UTC) - timedelta(days=days)
    store.sql(
        f"UPDATE decision_logs SET deleted_batches = 3, deleted_head = '{bytes(head).hex()}', deleted_first = 1,"
        f" deleted_last = 11, deleted_records = 11, deleted_received_at = '{old:%Y-%m-%d %H:%M:%S.%f+00}'"
        " WHERE node_id = 'node-1'"
    )


def test_a_forged_note_of_retention_is_found(kept: Kept) -> None:
    """What it says was deleted is too young; or else a checkpoint is younger than that, and does not have it yet."""
    note = "sidecar `node-1`: the note that retention deleted its batches up to 3 is forged: "
    with served(kept.settings) as store:
        forged(store, days=1)
    assert kept.verify().stderr.startswith(f"{note}what was received since ")
    assert kept.verify("--keep-decisions", 1).exit_code == 0
    told = kept.verify_signed("--keep-decisions", 1)
    assert told.exit_code == 1
    assert told.stderr.startswith(f"{note}batch 3 was received after ")


def test_the_findings_that_are_printed_are_bounded(own: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are counted."""
    monkeypatch.setattr("registry_store.cli.log.MAX_LINES", 3)
    own.by_sql("DELETE FROM decisions")
    assert own.verify().stderr.splitlines()[3:] == ["and 13 more", "the decisions were changed: 16 findings"]


@pytest.mark.parametrize(
    ("statement", "finding"),
    [
        ("UPDATE decisions SET decided_at = 'noon' WHERE decision_id = '{ids[1]}'", "was changed: it cannot be read"),
        (
            "UPDATE decision_batches SET content = x'00' WHERE number = 2",
            "batch 2 (records 6 to 8) was changed: it cannot",
        ),
        ("UPDATE decision_batches SET received_at = 'noon'", "its batches after 0 were changed: they cannot be read"),
    ],
)
def test_a_value_that_cannot_be_read_is_found(own: Kept, statement: str, finding: str) -> None:
    """SQLite takes any value; the command does not fail for it."""
    own.by_sql(statement)
    told = own.verify()
    assert told.exit_code == 1
    assert finding in told.stderr


def test_a_changed_checkpoint_is_named(own: Kept) -> None:
    """By its line."""
    own.checkpoints.write_text(own.checkpoints.read_text().replace(NODE, "node-9"))
    told = own.verify_signed()
    assert told.exit_code == 1
    assert "the checkpoints were changed: line" in told.stderr
