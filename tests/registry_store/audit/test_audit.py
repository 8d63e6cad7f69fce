"""The activity log as an auditor reads it, and every way of tampering with it found."""

import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import inspect, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from registry_store.access.keys import Pepper
from registry_store.audit.chain import Chain, Fault
from registry_store.audit.checkpoints import Signer, read_file, signing_key
from registry_store.audit.verify import verify_database
from registry_store.cli import main
from registry_store.database.migrate import opened
from registry_store.database.tables import Activity
from registry_store.journal import activity
from registry_store.journal.revisions import meta
from registry_store.settings import Settings, load_pepper
from tests.registry_store import approving
from tests.registry_store.conftest import MakeSettings, settings_in
from tests.registry_store.rest.test_lists import statements
from tests.registry_store.serving import Rest, Served, in_own_loop, served
from tests.waiting import BOUND_SECONDS

REGISTRY = "/api/agents/registry"
ENTRIES = 9


def run(*arguments: object) -> Result:
    """The program with these arguments, in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_an_agents_activity_is_newest_first(store: Served, admin: Rest) -> None:
    """Its own entries, its policies' among them, with their states as objects, in pages."""
    admin.register("watched-agent-prod")
    admin.register("other-agent-prod")
    path = f"{REGISTRY}/watched-agent-prod"
    admin.put(path, {"auto_approve_below": 20, "version_notes": "SEC-1"})
    admin.post(f"{path}/policies", {"policy_name": "p", "policy_action": "block"})
    page = admin.get(f"{path}/activity?limit=2").body
    assert (page["agent_id"], page["total"], page["limit"], page["offset"]) == ("watched-agent-prod", 3, 2, 0)
    added, updated = page["activities"]
    assert (added["activity_type"], added["new_state"]["policy_name"]) == ("policy_added", "p")
    assert (updated["activity_description"], updated["performed_by"], updated["performed_via"]) == (
        *("SEC-1", "tester", "api"),
    )
    assert (updated["previous_state"], updated["new_state"]) == (
        {"auto_approve_below": 30},
        {"auto_approve_below": 20},
    )
    (registered,) = admin.get(f"{path}/activity?limit=2&offset=2").body["activities"]
    assert registered["activity_type"] == "registered"
    assert admin.get(f"{path}/activity?type=updated").body["activities"] == [updated]
    assert admin.get(f"{path}/activity?before={updated['sequence']}").body["activities"] == [registered]
    assert admin.get(f"{REGISTRY}/unheard-of/activity").status == 404


def test_an_agents_key_reads_its_own_activity(store: Served, admin: Rest) -> None:
    """And no other's, nor the organisation's."""
    admin.register("own-log-prod")
    admin.register("others-log-prod")
    key = admin.post("/api/keys", {"role": "agent", "name": "own", "agent_id": "own-log-prod"}).body["key"]
    agent = Rest(store.running.http_address, key)
    assert agent.get(f"{REGISTRY}/own-log-prod/activity").status == 200
    assert agent.get(f"{REGISTRY}/others-log-prod/activity").status == 403
    assert agent.get("/api/activity").status == 403
    assert agent.get("/api/activity/export").status == 403


def test_the_organisations_activity_is_filtered(store: Served, admin: Rest) -> None:
    """By agent, type, actor, subject, time and sequence."""
    admin.register("filtered-agent-prod")
    admin.post("/api/agents/mcp/servers", {"server_name": "filtered-server"})
    everything = admin.get("/api/activity").body
    newest = everything["activities"][0]
    assert (newest["subject_kind"], newest["subject_id"]) == ("mcp_server", "filtered-server")
    assert [entry["sequence"] for entry in everything["activities"]] == list(
        range(newest["sequence"], newest["sequence"] - len(everything["activities"]), -1)
    )

    def found(query: str) -> list[str]:
        return [entry["subject_id"] for entry in admin.get(f"/api/activity?{query}").body["activities"]]

    assert found("type=server_added") == ["filtered-server"]
    assert found("agent_id=filtered-agent-prod") == ["filtered-agent-prod"]
    assert found("subject_id=filtered-server") == ["filtered-server"]
    assert found("subject_kind=agent&subject_id=filtered-server") == []
    assert found("subject_kind=mcp_server&type=server_added") == ["filtered-server"]
    assert found("performed_by=nobody") == []
    assert found(f"since={newest['timestamp']}") == ["filtered-server"]
    assert "filtered-server" not in found(f"until={newest['timestamp']}")
    assert "filtered-server" not in found(f"before={newest['sequence']}")
    assert found("since=9999-12-31T23:59:59-23:59") == []
    assert len(found("until=0001-01-01T00:00:00%2B23:59&limit=500")) == 0


def test_approvals_do_not_bury_the_changes(fresh: Served) -> None:
    """`kind=change` leaves out what became of approvals, `kind=approval` selects it; both count, page and combine."""
    admin = fresh.rest()
    admin.register("busy-agent-prod")
    for _ in range(3):
        approval_id = approving.opened(fresh, agent_id="busy-agent-prod")
        admin.post(f"/api/approvals/{approval_id}/approve")
    changes, approvals = (admin.get(f"/api/activity?kind={kind}").body for kind in ("change", "approval"))
    assert admin.get("/api/activity").body["total"] == changes["total"] + approvals["total"]
    assert {entry["subject_kind"] for entry in changes["activities"]} == {"agent", "key"}
    assert [entry["activity_type"] for entry in approvals["activities"]] == [
        *("approval_approved", "approval_requested")
    ] * 3
    path = f"{REGISTRY}/busy-agent-prod/activity"
    assert admin.get(f"{path}?kind=change").body["activities"][0]["activity_type"] == "registered"
    assert [admin.get(f"{path}?kind={kind}").body["total"] for kind in ("change", "approval")] == [1, 6]
    second = admin.get("/api/activity?kind=approval&limit=1&offset=1&type=approval_requested").body
    assert (second["total"], len(second["activities"])) == (3, 1)
    assert admin.get("/api/activity?kind=other").status == 422


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_the_changes_are_found_by_an_index(fresh: Served) -> None:
    """Neither the list nor its count reads what became of approvals."""
    with statements(fresh) as seen:
        fresh.rest().get("/api/activity?kind=change")
    plans = [str(fresh.sql(f"EXPLAIN QUERY PLAN {one}".replace("?", "50"))) for one in seen if "FROM activity" in one]
    assert len(plans) == 2
    assert all("ix_activity_changes" in plan for plan in plans), plans


@pytest.mark.parametrize(
    "query", ["since=yesterday", "until=2030-01-31", "since=7", "before=0", "limit=501", "offset=-1"]
)
def test_a_wrong_filter_is_named(admin: Rest, query: str) -> None:
    """With its parameter."""
    answer = admin.get(f"/api/activity?{query}")
    assert answer.status == 422
    assert [problem["path"] for problem in answer.body["errors"]] == [query.partition("=")[0]]


@dataclass(frozen=True)
class Log:
    """A log of some entries, no store running, and its checkpoints."""

    settings: Settings
    checkpoints: Path

    def verify(self, *arguments: object) -> Result:
        """`verify-log` on the database."""
        where = ("--database", self.settings.database, "--pepper-file", self.settings.pepper_path())
        return run("verify-log", *where, *arguments)

    def verify_signed(self) -> Result:
        """With the checkpoints."""
        return self.verify("--checkpoint-file", self.checkpoints)

    def tamper(self, tampering: "Tampering", *, for_good: bool = False) -> "Faults":
        """What is found after somebody was at the database, who is then undone again unless it is `for_good`."""

        async def attempt() -> Faults:
            async with opened(self.settings.url()) as database, AsyncSession(database.engine) as session:
                await tampering(session)
                await session.flush()
                found = [await verify_database(session, chain) for chain in (Chain(), self.signed())]
                await (session.commit() if for_good else session.rollback())
            return Faults(*found)

        return in_own_loop(attempt())

    def signed(self) -> Chain:
        signer = Signer(signing_key(Pepper(load_pepper(self.settings.pepper_path(), is_new=False))))
        checkpoints = read_file(self.checkpoints, signer)
        return Chain(signed=(signed for checkpoint in checkpoints for signed in checkpoint.signed()))


class Faults(NamedTuple):
    """What verifying finds from the log alone, and with the checkpoints."""

    alone: Fault | None
    signed: Fault | None


Tampering = Callable[[AsyncSession], Awaitable[None]]


def by_sql(*statements: str) -> Tampering:
    async def execute(session: AsyncSession) -> None:
        for statement in statements:
            await session.execute(text(statement))

    return execute


def by_writing_anew(sequence: int) -> Tampering:
    """An entry forged, and every hash after it made anew, the database's note of the head too."""

    async def forge(session: AsyncSession) -> None:
        rows = (await session.scalars(select(Activity).order_by(Activity.sequence))).all()
        rows[sequence - 1].activity_description = "forged"
        for number in range(sequence - 1, len(rows)):
            rows[number].previous_hash = rows[number - 1].hash if number else activity.GENESIS
            rows[number].hash = activity.digest(rows[number])
        (await meta(session)).activity_hash = rows[-1].hash
        await session.flush()
        session.expunge_all()

    return forge


@contextmanager
def running(log: Log) -> Iterator[Served]:
    with served(replace(log.settings, checkpoint_file=log.checkpoints)) as store:
        yield store


def written(settings: Settings, folder: Path) -> Log:
    """Nine entries under checkpoints: the key, and eight agents."""
    log = Log(settings, folder / "checkpoints.jsonl")
    with running(log) as store:
        admin = store.rest()
        for number in range(2, ENTRIES + 1):
            admin.register(f"logged-{number}")
    return log


@pytest.fixture
def log(settings: Settings, tmp_path: Path) -> Log:
    return written(settings, tmp_path)


@pytest.fixture
def own_log(tmp_path: Path) -> Log:
    """One on SQLite, where it is the file and not the database that matters."""
    return written(settings_in(tmp_path), tmp_path)


@pytest.fixture(scope="module")
def kept_log(settings_for: MakeSettings, tmp_path_factory: pytest.TempPathFactory) -> Log:
    """One for all tests that undo what they do."""
    folder = tmp_path_factory.mktemp("log")
    return written(settings_for(folder), folder)


def test_an_intact_log_is_verified(kept_log: Log) -> None:
    """With and without checkpoints; the latter says what it cannot find."""
    signed, plain = kept_log.verify_signed(), kept_log.verify()
    assert (signed.exit_code, plain.exit_code) == (0, 0)
    assert f"intact: {ENTRIES} entries, head " in signed.stdout
    assert "not checked: " in plain.stdout
    assert "not checked: " not in signed.stdout


EVERY_COLUMN = [name for name in inspect(Activity).columns.keys() if name != "sequence"]  # noqa: SIM118 - no mapping
COLUMNS = ", ".join(EVERY_COLUMN)
FROM_OTHER = ", ".join(f"{column} = other.{column}" for column in EVERY_COLUMN)


@pytest.mark.parametrize(
    ("statements", "entry", "word"),
    [
        (["UPDATE activity SET performed_by = 'nobody' WHERE sequence = 5"], 5, "edited"),
        (["""UPDATE activity SET new_state = replace(new_state, '":', '": ') WHERE sequence = 5"""], 5, "edited"),
        (["UPDATE activity SET previous_hash = hash WHERE sequence = 5"], 5, "replaced or moved"),
        (["UPDATE activity SET hash = previous_hash WHERE sequence = 5"], 5, "edited"),
        (["DELETE FROM activity WHERE sequence = 5"], 5, "missing"),
        (["DELETE FROM activity WHERE sequence = 1"], 1, "missing"),
        (["DELETE FROM activity WHERE sequence > 7"], 8, "missing"),
        (
            ["DELETE FROM activity WHERE sequence = 5", "UPDATE activity SET sequence = 5 WHERE sequence = 9"],
            5,
            "replaced or moved",
        ),
        (
            [f"UPDATE activity SET sequence = {new} WHERE sequence = {old}" for old, new in ((5, 99), (6, 5), (99, 6))],
            5,
            "replaced or moved",
        ),
        (
            [
                "CREATE TABLE kept AS SELECT * FROM activity WHERE sequence IN (5, 6)",
                f"UPDATE activity SET {FROM_OTHER} FROM kept AS other"
                " WHERE activity.sequence IN (5, 6) AND other.sequence = 11 - activity.sequence",
            ],
            5,
            "replaced or moved",
        ),
        ([f"INSERT INTO activity SELECT 0, {COLUMNS} FROM activity WHERE sequence = 5"], 0, "inserted"),
        ([f"INSERT INTO activity SELECT 10, {COLUMNS} FROM activity WHERE sequence = 9"], 10, "replaced or moved"),
    ],
    ids=["edit", "blanks", "link", "hash", "delete", "first", "cut", "move", "swap", "contents", "before", "after"],
)
def test_tampering_is_found_from_the_log_alone(kept_log: Log, statements: list[str], entry: int, word: str) -> None:
    """The first bad entry is named, with checkpoints and without."""
    found = kept_log.tamper(by_sql(*statements))
    assert found.alone is not None
    assert found.signed is not None
    assert (found.alone.sequence, found.signed.sequence) == (entry, entry)
    assert word in found.alone.what


def test_a_cut_that_hides_itself_needs_checkpoints(kept_log: Log) -> None:
    """The end removed, and the database's note of the end moved: only the checkpoints know."""
    head = "(SELECT hash FROM activity WHERE sequence = 7)"
    note = f"UPDATE meta SET activity_sequence = 7, activity_hash = {head}"
    found = kept_log.tamper(by_sql("DELETE FROM activity WHERE sequence > 7", note))
    assert found.alone is None
    assert str(found.signed).startswith("entry 8 is missing: the log was truncated; the checkpoint of ")


@pytest.mark.parametrize("entry", [1, 5, ENTRIES])
def test_a_log_written_anew_needs_checkpoints(kept_log: Log, entry: int) -> None:
    """From the middle on, every hash right again: the forged entry itself is named."""
    found = kept_log.tamper(by_writing_anew(entry))
    assert found.alone is None
    assert str(found.signed).startswith(f"entry {entry} was replaced: ")


def test_tampering_is_told_in_one_line(log: Log) -> None:
    """With exit code 1."""
    log.tamper(by_writing_anew(5), for_good=True)
    assert log.verify().exit_code == 0
    found = log.verify_signed()
    assert (found.exit_code, found.stdout, len(found.stderr.splitlines())) == (1, "", 1)
    assert "the activity log was changed: entry 5 was replaced" in found.stderr


def test_a_value_that_cannot_be_read_is_a_fault_of_its_entry(own_log: Log) -> None:
    """SQLite keeps whatever it is given, a time that is none too."""
    for column, value in (("timestamp", "'soon'"), ("timestamp", "x'ff'"), ("activity_type", "x'ff'"), ("hash", "7")):
        found = own_log.tamper(by_sql(f"UPDATE activity SET {column} = {value} WHERE sequence = 2"))
        assert [fault and fault.sequence for fault in found] == [2, 2]


def test_a_checkpoint_that_was_changed_is_named(own_log: Log) -> None:
    """By its line: one edited, one left out, one signed under another pepper."""
    with running(own_log) as store:
        store.rest().register("second-line")
    lines = own_log.checkpoints.read_text().splitlines(keepends=True)
    assert len(lines) >= 2
    own_log.checkpoints.write_text(lines[0].replace('"first":1', '"first":2') + lines[1])
    assert "line 1 of" in (edited := own_log.verify_signed()).stderr
    assert edited.exit_code == 1
    own_log.checkpoints.write_text("".join(lines[1:]))
    assert "line 1 of" in (cut := own_log.verify_signed()).stderr
    assert cut.exit_code == 1


def test_a_running_store_signs_and_watches(log: Log) -> None:
    """It goes on where the file ends; a log that changed under it is in its metrics, and signed no more."""
    with running(log) as store:
        admin = store.rest()
        admin.register("signed-at-once")
        assert until(store, "registry_store_activity_signed_sequence", ENTRIES + 2) == ENTRIES + 2
        log.tamper(by_writing_anew(ENTRIES + 2), for_good=True)
        assert until(store, "registry_store_activity_log_intact", 0) == 0
        admin.register("signed-no-more")
    assert f"entry {ENTRIES + 2} was replaced" in log.verify_signed().stderr


def until(store: Served, name: str, value: float) -> float:
    """The metric, once it has this value, or else what it has at the end of the bound."""
    deadline = time.monotonic() + BOUND_SECONDS
    while True:
        families = text_string_to_metric_families(store.rest(None).get("/metrics").body)
        (found,) = [sample.value for family in families for sample in family.samples if sample.name == name]
        if found == value or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def test_two_stores_do_not_share_a_file(own_log: Log) -> None:
    """The second ends with one line."""
    with running(own_log) as _store:
        where = ("--database", own_log.settings.database, "--pepper-file", own_log.settings.pepper_path())
        ports = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
        ended = run("serve", *where, *ports, "--checkpoint-file", own_log.checkpoints)
    assert ended.exit_code == 2
    assert "is in use by another store" in ended.stderr


def test_a_line_torn_by_a_crash_is_written_again(own_log: Log) -> None:
    """The half of it is dropped, and the log is whole after the next start."""
    with own_log.checkpoints.open("a") as file:
        file.write('{"at":"2026')
    assert own_log.verify_signed().exit_code == 0
    with running(own_log) as store:
        store.rest().register("after-the-crash")
    assert own_log.verify_signed().exit_code == 0
    assert all(json.loads(line)["signature"] for line in own_log.checkpoints.read_text().splitlines())


def over_rest(rest: Rest, after: int = 0) -> str:
    url = f"http://{rest.address}/api/activity/export?after={after}"
    got = rest.pool.request("GET", url, headers={"authorization": f"Bearer {rest.key}"})
    assert got.headers["content-type"] == "application/x-ndjson"
    return got.data.decode()


def test_an_export_is_verified_by_itself(own_log: Log, tmp_path: Path) -> None:
    """From the command line and over REST alike; an edited line is named."""
    exported = run("export-log", "--database", own_log.settings.database).stdout
    with running(own_log) as store:
        assert over_rest(store.rest("viewer")).startswith(exported)
        later = over_rest(store.rest(), after=ENTRIES)
    assert json.loads(later.partition("\n")[0])["sequence"] == ENTRIES + 1
    path = tmp_path / "activity.jsonl"
    path.write_text(exported)
    assert f"intact: {ENTRIES} entries" in own_log.verify("--log", path).stdout
    assert json.loads(exported.splitlines()[1])["new_state"]["agent_id"] == "logged-2"
    for edited in (exported.replace("logged-5", "logged-x"), exported.replace('"sequence":5', '"sequence":"5"')):
        path.write_text(edited)
        assert "entry 5 " in own_log.verify("--log", path).stderr
    path.write_text(exported + "[]\n")
    assert f"entry {ENTRIES + 1} " in own_log.verify("--log", path).stderr


def test_an_entry_is_verified_without_this_program(own_log: Log) -> None:
    """The page of the log says how: SHA-256 over canonical JSON, each state as the text that it was."""
    for line in run("export-log", "--database", own_log.settings.database).stdout.splitlines():
        entry: dict[str, Any] = json.loads(line)
        expected = entry.pop("hash")

        def canonical(value: Any) -> str:
            return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

        for state in ("previous_state", "new_state"):
            entry[state] = entry[state] and canonical(entry[state])
        assert hashlib.sha256(canonical(entry).encode()).hexdigest() == expected
