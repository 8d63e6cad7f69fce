"""Wrong keys are throttled, the last use of a key is saved, and a revoked key ends its streams."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime

import grpc
import pytest

from registry_store.access import authentication, keys
from registry_store.access.authentication import MAX_REMEMBERED, WINDOW_SECONDS, Failures, network
from registry_store.access.keys import Caller
from registry_store.errors import NotAuthenticatedError, TooManyFailuresError
from registry_store.rpc import calls
from registry_store.settings import Settings
from registry_store.store import Store
from tests.registry_store.rest.test_lists import statements
from tests.registry_store.serving import ALL, PATIENT, Rest, Served, in_thread, served, subscriber

REGISTRY = "/api/agents/registry"
WRONG = f"owkai_0123456789abcdef_{'x' * 43}"


def failing(failures: Failures, times: int, now: float, name: str = "there") -> None:
    for _ in range(times):
        failures.note(name, now)


def test_a_source_may_fail_so_often_and_then_has_to_wait() -> None:
    """Ten at once, the next after a tenth of the window, and all again after a whole one."""
    failures = Failures(10)
    failing(failures, 9, 100.0)
    assert failures.wait("there", 100.0) == 0
    failing(failures, 1, 100.0)
    assert failures.wait("there", 100.0) == pytest.approx(WINDOW_SECONDS / 10)
    assert failures.wait("there", 100.0 + WINDOW_SECONDS / 10) == 0
    assert failures.wait("elsewhere", 100.0) == 0
    failing(failures, 9, 100.0 + WINDOW_SECONDS)
    assert failures.wait("there", 100.0 + WINDOW_SECONDS) == 0


def test_however_often_a_source_fails_the_wait_has_a_bound() -> None:
    """Also where the clock is set back meanwhile."""
    failures = Failures(10)
    failing(failures, 10_000, 100.0)
    assert failures.wait("there", 100.0) <= WINDOW_SECONDS
    assert failures.wait("there", -1e9) <= WINDOW_SECONDS
    assert failures.wait("there", 100.0 + 2 * WINDOW_SECONDS) == 0


def test_failures_take_bounded_memory() -> None:
    """The names with the oldest failures are dropped first."""
    failures = Failures(1)
    for number in range(MAX_REMEMBERED + 10):
        failures.note(str(number), 0.0)
    assert len(failures) == MAX_REMEMBERED
    assert failures.wait("0", 0.0) == 0
    assert failures.wait(str(MAX_REMEMBERED), 0.0) > 0


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("testclient", "testclient"),
        ("", ""),
    ],
)
def test_a_host_is_one_source_however_many_addresses_it_has(source: str, name: str) -> None:
    """An IPv6 host has a /64 to itself."""
    assert network(source) == name


def test_too_many_wrong_keys_are_a_429(settings: Settings) -> None:
    """With Retry-After; a valid key is accepted, whether it was used before or not."""
    with served(replace(settings, most_failed_keys=3)) as store:
        known, new = store.rest(), store.rest()
        assert known.get(REGISTRY).status == 200
        guessing = Rest(known.address, WRONG)
        assert [guessing.get(REGISTRY).status for _ in range(5)] == [401, 401, 401, 429, 429]
        waiting = guessing.get(REGISTRY)
        assert waiting.headers["content-type"] == "application/problem+json"
        assert 1 <= int(waiting.headers["retry-after"]) <= WINDOW_SECONDS
        assert known.get(REGISTRY).status == 200
        assert new.get(REGISTRY).status == 200
        assert known.get("/healthz").status == 200
        refused = "registry_store_refused_keys_total 6.0"
        assert refused in known.get("/metrics").body


async def test_a_right_key_passes_however_many_wrong_ones_came_before(settings: Settings) -> None:
    """Under its own id, from its own address, at a store that has just started: over REST and over gRPC."""
    with served(settings) as store:
        admin, node = await in_thread(store.key, "admin"), await in_thread(store.key, "sidecar")
    with served(replace(settings, most_failed_keys=3), PATIENT) as store:
        for right in (admin, node):
            guessing = Rest(store.running.http_address, f"owkai_{keys.id_of(right)}_{'x' * 43}")
            statuses = [(await in_thread(guessing.get, REGISTRY)).status for _ in range(5)]
            assert statuses[-2:] == [429, 429]
        assert (await in_thread(Rest(store.running.http_address, admin).get, REGISTRY)).status == 200
        async with subscriber(store.running.grpc_address, node) as sidecar:
            await sidecar.hello()
            await sidecar.snapshot()


async def test_guesses_that_come_at_once_are_counted_too(settings: Settings) -> None:
    """Of a hundred, three are refused as wrong; the valid one is accepted, and one query finds all."""
    with served(replace(settings, most_failed_keys=3)) as store:
        right = await in_thread(store.key, "admin")
        authentication = store.running._store.authentication

        async def guess(text: str) -> str:
            try:
                await authentication.caller(text, "192.0.2.7", datetime.now(UTC))
            except (NotAuthenticatedError, TooManyFailuresError) as error:
                return type(error).__name__
            return "let in"

        async def guess_all() -> list[str]:
            wrong = [f"owkai_{number:016x}_{'x' * 43}" for number in range(99)]
            return await asyncio.gather(*map(guess, [*wrong[:50], right, *wrong[50:]]))

        with statements(store, of="guess") as seen:
            results = await in_thread(store.run, guess_all())
    assert Counter(results) == {"NotAuthenticatedError": 3, "TooManyFailuresError": 96, "let in": 1}
    assert results[50] == "let in"
    assert len([statement for statement in seen if "FROM keys" in statement]) == 1


async def test_whoever_gives_up_waiting_leaves_the_others_their_answer(settings: Settings) -> None:
    """Also the caller that runs the query, during the query."""
    with served(settings) as store:
        right = [await in_thread(store.key, "viewer", name) for name in ("first", "second", "third")]
        authentication = store.running._store.authentication

        async def all_but_the_first() -> list[str]:
            asked = [asyncio.create_task(authentication.caller(key, "192.0.2.7", datetime.now(UTC))) for key in right]
            await asyncio.sleep(0)  # the first reads, the others wait for it
            asked[0].cancel()
            await asyncio.wait(asked)
            assert asked[0].cancelled()
            return [task.result().name for task in asked[1:]]

        assert await in_thread(store.run, all_but_the_first()) == ["second", "third"]


async def test_more_than_one_reading_takes_are_found_by_the_next(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two keys per query: five keys take three queries."""
    monkeypatch.setattr("registry_store.access.authentication.MAX_KEYS_PER_QUERY", 2)
    with served(settings) as store:
        right = [await in_thread(store.key, "viewer", f"number {number}") for number in range(5)]
        authentication = store.running._store.authentication

        async def all_at_once() -> list[Caller]:
            return await asyncio.gather(*(authentication.caller(key, "192.0.2.7", datetime.now(UTC)) for key in right))

        with statements(store, of="caller") as seen:
            found = await in_thread(store.run, all_at_once())
    assert [caller.name for caller in found] == [f"number {number}" for number in range(5)]
    assert len([statement for statement in seen if "FROM keys" in statement]) == 3


@pytest.mark.parametrize("text", ["", "owkai", "owkai__", "x_0123456789abcdef_y", "owkai_0123456789abcde\N{SNOWMAN}_y"])
async def test_what_can_be_no_key_is_not_looked_up(store: Served, text: str) -> None:
    """No query is made for it."""
    authentication = store.running._store.authentication
    with statements(store, of="caller") as seen, pytest.raises(NotAuthenticatedError):
        await in_thread(store.run, authentication.caller(text, "192.0.2.8", datetime.now(UTC)))
    assert not seen


def test_a_lapsed_key_is_no_guess(settings: Settings) -> None:
    """Continued use of a revoked key does not throttle its host."""
    with served(replace(settings, most_failed_keys=2)) as store:
        admin, lapsed = store.rest(), store.rest()
        assert lapsed.key is not None
        admin.delete(f"/api/keys/{lapsed.key.split('_')[1]}")
        assert [lapsed.get(REGISTRY).status for _ in range(6)] == [401] * 6


async def test_too_many_wrong_keys_close_streams_too(settings: Settings) -> None:
    """The same count holds over gRPC and REST."""
    with served(replace(settings, most_failed_keys=2)) as store:
        codes = []
        for _ in range(3):
            async with subscriber(store.running.grpc_address, WRONG) as sidecar:
                codes.append((await sidecar.ended())[0])
        assert codes == [grpc.StatusCode.UNAUTHENTICATED] * 2 + [grpc.StatusCode.RESOURCE_EXHAUSTED]
        guessing = Rest(store.running.http_address, WRONG)
        assert (await in_thread(guessing.get, REGISTRY)).status == 429


def test_when_a_key_was_last_used_is_known(store: Served, admin: Rest) -> None:
    """Shown at once by the store that saw it, null if never used; it does not change the ETag."""
    viewer = store.rest("viewer")
    path = f"/api/keys/{viewer.key.split('_')[1]}"  # type: ignore[union-attr]
    before = admin.get(path)
    assert before.body["last_used_at"] is None
    started = datetime.now(UTC)
    viewer.get(REGISTRY)
    after = admin.get(path)
    assert started <= datetime.fromisoformat(after.body["last_used_at"]) <= datetime.now(UTC)
    assert after.headers["etag"] == before.headers["etag"]


def test_when_a_key_was_last_used_survives_a_restart(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is saved when the store stops, in one write however often the key was used, which makes no revision."""
    monkeypatch.setattr(authentication, "SAVE_SECONDS", 3600)
    with served(settings) as store:
        viewer = store.rest("viewer")
        for _ in range(5):
            viewer.get(REGISTRY)
        (unsaved,) = store.sql("SELECT last_used_at FROM keys WHERE role = 'viewer'")
        assert unsaved == (None,)
    with served(settings) as store:
        listed = store.rest().get("/api/keys").body["keys"]
        assert [key["last_used_at"] is not None for key in listed if key["role"] == "viewer"] == [True]
        assert store.sql("SELECT revision FROM meta") == [(0,)]


def test_revoking_honours_if_match(admin: Rest) -> None:
    """The ETag of a key changes with its revocation, and a stale one is a 412."""
    made = admin.post("/api/keys", {"role": "viewer", "name": "tagged"})
    path, tag = made.headers["location"], made.headers["etag"]
    assert admin.get(path).headers["etag"] == tag
    assert admin.delete(path, If_Match='"other"').status == 412
    assert admin.get(path).body["revoked_at"] is None
    assert admin.delete(path, If_Match=tag).status == 200
    assert admin.delete(path, If_Match=tag).status == 412


async def test_what_a_stop_cuts_off_is_saved_all_the_same(settings: Settings) -> None:
    """A store that stops saves once more, also what it was saving at that moment."""

    async def cut_off(inner: Store) -> None:
        async with inner.database.writing():
            saving = asyncio.create_task(inner.authentication.save())
            await asyncio.sleep(0)  # it has begun, and waits for its turn to write
            saving.cancel()
            await asyncio.wait([saving])
        assert saving.cancelled()

    with served(settings) as store:
        viewer = await in_thread(store.rest, "viewer")
        await in_thread(viewer.get, REGISTRY)
        await in_thread(store.run, cut_off(store.running._store))
    with served(settings) as store:
        (saved,) = store.sql("SELECT last_used_at FROM keys WHERE role = 'viewer'")
        assert saved != (None,)


async def test_revoking_a_key_here_ends_its_open_stream_at_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without waiting for the next periodic check of the keys."""
    monkeypatch.setattr(calls, "KEY_CHECK_SECONDS", 3600)  # of every store that runs: no other is asked for this
    with served(settings, PATIENT) as store:
        admin, key = await in_thread(store.rest), await in_thread(store.key, "sidecar")
        async with subscriber(store.running.grpc_address, key) as sidecar:
            await sidecar.hello(ALL)
            await sidecar.snapshot()
            await in_thread(admin.delete, f"/api/keys/{key.split('_')[1]}")
            assert (await sidecar.ended())[0] is grpc.StatusCode.UNAUTHENTICATED


async def test_a_key_that_was_revoked_elsewhere_loses_its_open_stream_within_a_second(fresh: Served) -> None:
    """For example by another store on the database: keys are checked twice a second."""
    assert calls.KEY_CHECK_SECONDS <= 0.5
    assert await end_of_a_stream_whose_key_is(fresh, "revoked_at = created_at") is grpc.StatusCode.UNAUTHENTICATED


async def test_an_expired_keys_open_stream_ends(fresh: Served) -> None:
    """Expiry ends a stream as revocation does."""
    assert await end_of_a_stream_whose_key_is(fresh, "expires_at = created_at") is grpc.StatusCode.UNAUTHENTICATED


async def end_of_a_stream_whose_key_is(store: Served, changed: str) -> grpc.StatusCode:
    """The status that ends an open stream once its key is changed so in the database."""
    key = store.key("sidecar")
    async with subscriber(store.running.grpc_address, key) as sidecar:
        await sidecar.hello(ALL)
        await sidecar.snapshot()
        await in_thread(store.sql, f"UPDATE keys SET {changed} WHERE key_id = '{key.split('_')[1]}'")
        return (await sidecar.ended())[0]
