"""What happens by the clock: changes that are too old are given up and deleted, a little at a time."""

from datetime import UTC, datetime, timedelta

import pytest

from registry_store import changes, monitor
from registry_store.changes import HELD_FOR
from tests.registry_store.serving import Rest, Served
from tests.registry_store.test_lists import statements

REGISTRY = "/api/agents/registry"


def tidy(store: Served, after: timedelta = timedelta()) -> None:
    running = store.running._store
    store.run(monitor.tidy(running.database, running.settings.retention(), datetime.now(UTC) + after))


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
    tidy(fresh, HELD_FOR - timedelta(hours=1))
    assert held(fresh) == (3, 0)
    tidy(fresh, HELD_FOR + timedelta(hours=1))
    assert held(fresh) == (0, 3)
    fresh.rest().register("new-agent-prod")
    tidy(fresh)
    assert held(fresh) == (1, 3)


def test_the_age_of_each_change_counts(fresh: Served) -> None:
    """A change of today stays when those of last week go."""
    fill(fresh.rest(), 4)
    fresh.sql("UPDATE changes SET committed_at = '2020-01-01 00:00:00.000000' WHERE revision <= 2")
    tidy(fresh)
    assert held(fresh) == (2, 2)


def test_deleting_is_cut_into_transactions(fresh: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """No transaction deletes more rows than a batch has, and all batches together delete everything."""
    monkeypatch.setattr(monitor, "BATCH", 2)
    fill(fresh.rest(), 5)
    with statements(fresh, of="tidy") as seen:
        tidy(fresh, HELD_FOR + timedelta(hours=1))
    assert held(fresh) == (0, 5)
    assert len([statement for statement in seen if statement.startswith("DELETE FROM changes")]) == 3


def test_stores_may_tidy_up_side_by_side(fresh: Served) -> None:
    """One that comes later never brings back what another gave up."""
    fill(fresh.rest(), 3)
    database = fresh.running._store.database

    async def give_up(upto: int) -> None:
        async with database.writing() as session:
            await changes.give_up(session, upto)

    for upto in (2, 1, 99):
        fresh.run(give_up(upto))
    assert held(fresh)[1] == 3


def test_counts_of_nothing_are_dropped(fresh: Served) -> None:
    """Tags that no agent has any more leave no row behind."""
    admin = fresh.rest()
    fill(admin, 2)
    admin.put(f"{REGISTRY}/old-agent-0-prod", {"tags": []})
    assert fresh.sql("SELECT count(*) FROM agent_counts WHERE tag = 'tag-0'") == [(1,)]
    tidy(fresh)
    assert fresh.sql("SELECT count(*) FROM agent_counts WHERE tag = 'tag-0'") == [(0,)]
    assert admin.get(f"{REGISTRY}?tag=tag-1").body["total"] == 1
