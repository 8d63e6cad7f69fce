"""What happens by the clock: what is too old is given up and deleted, a little at a time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from click.testing import CliRunner

from registry_store import retention
from registry_store.cli import main
from registry_store.journal import revisions
from registry_store.journal.revisions import KEPT_FOR
from registry_store.settings import Settings
from tests.registry_store.reporting import Log, decision, report
from tests.registry_store.rest.test_lists import statements
from tests.registry_store.serving import Rest, Served, in_thread, never, served
from tests.waiting import eventually_gives

REGISTRY = "/api/agents/registry"


@pytest.fixture(autouse=True)
def by_hand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No store tidies up by itself between two lines of a test."""
    monkeypatch.setattr(retention, "run", never)


def tidy(store: Served, after: timedelta = timedelta()) -> None:
    running = store.running._store
    store.run(retention.tidy(running.database, running.settings.retention(), datetime.now(UTC) + after))


def fill(admin: Rest, number: int) -> None:
    for index in range(number):
        admin.register(f"old-agent-{index}-prod", tags=[f"tag-{index}"])


def held(store: Served) -> tuple[int, int]:
    """How many rows there are, and the revision from which on a subscriber may resume."""
    ((rows, oldest),) = store.sql("SELECT (SELECT count(*) FROM changes), oldest_revision FROM meta")
    return rows, oldest


def test_changes_are_held_for_a_week(fresh: Served) -> None:
    """Up to then nothing is deleted; then all is, and whoever has the newest revision may still resume."""
    fill(fresh.rest(), 3)
    tidy(fresh, KEPT_FOR - timedelta(hours=1))
    assert held(fresh) == (3, 0)
    tidy(fresh, KEPT_FOR + timedelta(hours=1))
    assert held(fresh) == (0, 3)
    fresh.rest().register("new-agent-prod")
    tidy(fresh)
    assert held(fresh) == (1, 3)


async def test_a_store_tidies_up_by_itself(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it starts, and so also where it never runs for long."""
    with served(settings) as store:
        await in_thread(fill, await in_thread(store.rest), 2)
        await in_thread(store.sql, "UPDATE changes SET committed_at = '2020-01-01 00:00:00.000000'")
    monkeypatch.undo()
    with served(settings) as store:
        await eventually_gives(partial(in_thread, held, store), (0, 2).__eq__)


def test_the_age_of_each_change_counts(fresh: Served) -> None:
    """A change of today stays when those of last week go."""
    fill(fresh.rest(), 4)
    fresh.sql("UPDATE changes SET committed_at = '2020-01-01 00:00:00.000000' WHERE revision <= 2")
    tidy(fresh)
    assert held(fresh) == (2, 2)


def test_deleting_is_cut_into_transactions(fresh: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """No transaction deletes more rows than a batch has, and all batches together delete everything."""
    monkeypatch.setattr(retention, "BATCH", 2)
    fill(fresh.rest(), 5)
    with statements(fresh, of="tidy") as seen:
        tidy(fresh, KEPT_FOR + timedelta(hours=1))
    assert held(fresh) == (0, 5)
    assert len([statement for statement in seen if statement.startswith("DELETE FROM changes")]) == 3


def test_stores_may_tidy_up_side_by_side(fresh: Served) -> None:
    """One that comes later never brings back what another gave up."""
    fill(fresh.rest(), 3)
    database = fresh.running._store.database

    async def expire(upto: int) -> None:
        async with database.writing() as session:
            await revisions.expire(session, upto)

    for upto in (2, 1, 99):
        fresh.run(expire(upto))
    assert held(fresh)[1] == 3


def rows(store: Served) -> tuple[int, int, int]:
    """How many decisions, minutes of usage, and sidecars' logs there are."""
    names = ("decisions", "usage", "decision_logs")
    decisions, usage, logs = (store.sql(f"SELECT count(*) FROM {name}")[0][0] for name in names)
    return decisions, usage, logs


def test_decisions_and_usage_are_kept_for_their_time(fresh: Served) -> None:
    """90 and 400 days by default, decisions from when they came in; a sidecar is forgotten with its usage."""
    report(fresh, decision(), decision("block", at=datetime(1970, 1, 2, tzinfo=UTC)))
    tidy(fresh, timedelta(days=89))
    assert rows(fresh) == (2, 1, 1)  # a clock that is wrong costs a decision its minute of usage, and nothing else
    tidy(fresh, timedelta(days=91))
    assert rows(fresh) == (0, 1, 1)
    tidy(fresh, timedelta(days=399))
    assert rows(fresh) == (0, 1, 1)
    tidy(fresh, timedelta(days=401))
    assert rows(fresh) == (0, 0, 0)


def test_how_long_they_are_kept_is_a_setting(settings: Settings) -> None:
    """In days, each for itself."""
    with served(replace(settings, keep_decisions=2, keep_usage=5)) as store:
        report(store, decision())
        for days, left in ((1, (1, 1, 1)), (3, (0, 1, 1)), (6, (0, 0, 0))):
            tidy(store, timedelta(days=days))
            assert rows(store) == left


def test_old_decisions_are_deleted_with_their_batches(fresh: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest first, a few batches at once, with their decisions; an approval that one opened stays."""
    monkeypatch.setattr(retention, "BATCH", 2)
    ids = [f"01920000-0000-7000-8000-00000000000{number}" for number in range(5)]
    said = [decision("escalate", opens=one, action={"resource_id": one}) for one in ids]
    log = Log()
    for one in (*said, decision()):
        report(fresh, one, log=log)
    fresh.sql(f"UPDATE decision_batches SET received_at = '2020-01-01 00:00:00.000000' WHERE number <= {len(said)}")
    with statements(fresh, of="tidy") as seen:
        tidy(fresh)
    assert rows(fresh)[0] == 1
    assert len([statement for statement in seen if statement.startswith("DELETE FROM decision_batches")]) == 3
    assert fresh.sql("SELECT count(*) FROM approvals") == [(5,)]


@pytest.mark.parametrize("option", ["--keep-decisions", "--keep-usage"])
@pytest.mark.parametrize("value", ["0", "-1", "36501", "ever", ""])
def test_a_time_that_is_none_stops_the_start(option: str, value: str) -> None:
    """One clear line that names the setting, and exit code 2."""
    ended = CliRunner().invoke(main, ["serve", option, value])
    assert ended.exit_code == 2
    assert f"Invalid value for '{option}'" in ended.output
