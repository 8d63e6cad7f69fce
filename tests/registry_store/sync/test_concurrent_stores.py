"""Several writers over several stores on one PostgreSQL, the stores killed and started again meanwhile."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
import urllib3
from click.testing import CliRunner

from registry_store.cli import main
from tests.postgresql import Cluster
from tests.registry_store.serving import Rest, Subscriber, document, subscriber
from tests.waiting import eventually

WRITERS = 8
AGENTS = [f"contended-worker-{number}" for number in range(8)]
REGISTRY = "/api/agents/registry"
PROGRAM = [sys.executable, "-m", "registry_store"]
BOUND_SECONDS = 1800
UNKNOWN = (urllib3.exceptions.HTTPError, OSError)
"""Errors of a writer when the store dies; it then asks the registry whether the change was made."""


class StoreProcess:
    """`registry-store serve` as a process of its own, which can be killed and started again."""

    def __init__(self, database: str, pepper: Path, errors: Path) -> None:
        self._errors = errors
        listen = ["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0"]
        self._command = [*PROGRAM, "serve", "--database", database, "--pepper-file", str(pepper), *listen]
        self.http = self.grpc = ""

    def start(self) -> None:
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=Path(__file__).parent
            )

    def wait(self) -> None:
        """Wait until it listens; its ports differ from the ones before."""
        assert self._process.stdout is not None
        words = self._process.stdout.readline().split()
        assert words, self._errors.read_text()
        self.http, self.grpc = words[2], words[4]

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()


def start(stores: list[StoreProcess]) -> None:
    """Start them side by side."""
    for store in stores:
        store.start()
    for store in stores:
        store.wait()


class Progress:
    """How many changes were acknowledged, and the revision of each answer that arrived."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.made = 0
        self.revisions: list[int] = []
        self.ended = False

    def acknowledged(self, revision: int | None) -> None:
        with self._changed:
            self.made += 1
            if revision is not None:
                self.revisions.append(revision)
            self._changed.notify_all()

    def reached(self, number: int) -> bool:
        """Wait for so many changes; false if the writers ended before."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.made >= number or self.ended, BOUND_SECONDS)
            return self.made >= number

    def end(self) -> None:
        with self._changed:
            self.ended = True
            self._changed.notify_all()


class Writer:
    """Makes changes in sequence, each exactly once, even if answers are lost."""

    def __init__(self, number: int, stores: list[StoreProcess], key: str, progress: Progress) -> None:
        self.number, self.progress = number, progress
        self.stores, self._key = stores, key
        self._calls = number
        self._pool = urllib3.PoolManager(retries=False)

    def run(self, changes: int) -> None:
        for number in range(1, changes + 1):
            change = (self._add_policy, self._update, self._register, self._update)[number % 4]
            self.progress.acknowledged(change(number))
        self._pool.clear()

    def _update(self, number: int) -> int | None:
        """Add this writer's mark to those of the others; the ETag prevents lost updates."""
        path = f"{REGISTRY}/{AGENTS[(self.number + number) % len(AGENTS)]}"
        mark, doubted = f"writer-{self.number}", False
        while True:
            try:
                before = self._call("GET", path)
                if before.body["metadata"].get(mark) == number:
                    assert doubted, "a mark that was never sent"
                    return None
                body = {
                    "metadata": before.body["metadata"] | {mark: number},
                    "max_actions_per_day": self.unique(number),
                    "version_notes": f"{mark}-{number}",
                }
                answer = self._call("PUT", path, body, If_Match=before.headers["etag"])
            except UNKNOWN:
                doubted = True
                continue
            if answer.status == 200:
                revision: int = answer.body["revision"]
                return revision
            assert answer.status == 412, answer.body

    def _add_policy(self, number: int) -> int | None:
        path = f"{REGISTRY}/{AGENTS[number % len(AGENTS)]}/policies"
        return self._create(path, {"policy_name": f"policy-{self.unique(number)}", "policy_action": "block"})

    def _register(self, number: int) -> int | None:
        return self._create(REGISTRY, {"agent_id": f"new-worker-{self.unique(number)}", "display_name": "x"})

    def _create(self, path: str, body: dict[str, Any]) -> int | None:
        """Add a record with a unique name; if the name is taken, an earlier answer was lost."""
        doubted = False
        while True:
            try:
                answer = self._call("POST", path, body)
            except UNKNOWN:
                doubted = True
                continue
            if answer.status == 201:
                revision: int = answer.body["revision"]
                return revision
            assert (answer.status, doubted) == (409, True), answer.body
            return None

    def _call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The answer of either store; after a 503 or a lost connection the result of the change is unknown."""
        assert not self.progress.ended, "another writer failed"
        self._calls += 1
        rest = Rest(self.stores[self._calls % len(self.stores)].http, self._key, self._pool)
        answer = rest.call(method, path, body, **headers)
        if answer.status == 503:
            raise ConnectionError("not now")
        return answer

    def unique(self, number: int) -> int:
        return 10_000 * (self.number + 1) + number


class Follower:
    """A sidecar that follows any store that answers, and records each revision that it reached."""

    def __init__(self, stores: list[StoreProcess], key: str) -> None:
        self._stores, self._key = stores, key
        self.epoch = ""
        self.steps: list[tuple[int, int]] = []
        self.revision = 0
        self.snapshots = 0
        self.documents: dict[str, Any] = {}
        self.marks: Counter[tuple[str, str]] = Counter()

    async def run(self) -> None:
        """Follow until cancelled."""
        for turn in range(1_000_000):
            try:
                async with subscriber(self._stores[turn % len(self._stores)].grpc, self._key) as sidecar:
                    await self._follow(sidecar)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, AssertionError) as error:
                if isinstance(error, AssertionError) and "the stream has ended" not in str(error):
                    raise
                await asyncio.sleep(0.05)

    async def _follow(self, sidecar: Subscriber) -> None:
        await sidecar.hello(epoch=self.epoch, revision=self.revision)
        if not self.epoch:
            snapshot = await sidecar.snapshot()
            self.epoch, self.revision = snapshot.welcome.epoch, snapshot.end.revision
            self.snapshots += 1
            for record in snapshot.records:
                self._take(record.id, document(record))
        while True:
            message = await sidecar.next()
            match message.WhichOneof("message"):
                case "welcome":
                    self.snapshots += not message.welcome.resumed
                case "change":
                    change = message.change
                    self.steps.append((change.from_revision, change.to_revision))
                    self.revision = change.to_revision
                    for record in change.records:
                        self._take(record.id, document(record))

    def _take(self, record_id: str, state: Any) -> None:
        for mark, number in state["metadata"].items():
            assert number >= self.marks[record_id, mark], "an older state after a newer"
            self.marks[record_id, mark] = number
        self.documents[record_id] = state


class Registry:
    """Two store processes on one new database."""

    def __init__(self, cluster: Cluster, name: str, pepper: Path) -> None:
        self._cluster, self._name, self._pepper = cluster, name, pepper
        self.stores = [
            StoreProcess(cluster.url(name), pepper, pepper.with_name(f"store-{number}.log")) for number in range(2)
        ]

    def rows(self, statement: str) -> list[list[str]]:
        """The result of a statement, as text."""
        return [line.split("|") for line in self._cluster.sql(self._name, statement).splitlines()]

    def command(self, *arguments: str) -> str:
        """The output of `registry-store`; fails unless its exit code is 0."""
        database = ["--database", self._cluster.url(self._name), "--pepper-file", str(self._pepper)]
        done = CliRunner().invoke(main, [*arguments, *database])
        assert done.exit_code == 0, done.output
        return done.stdout.strip()


@pytest.fixture
def registry(cluster: Cluster, template: str, tmp_path: Path) -> Iterator[Registry]:
    found = Registry(cluster, cluster.create(template), tmp_path / "pepper")
    try:
        start(found.stores)
        yield found
    finally:
        for store in found.stores:
            store.kill()


@pytest.mark.parametrize(
    ("changes", "kills"), [(128, 2), pytest.param(5120, 20, marks=pytest.mark.soak)], ids=["short", "full"]
)
async def test_nothing_acknowledged_is_lost_or_made_twice(registry: Registry, changes: int, kills: int) -> None:
    """Revisions are gapless, versions and activity agree with the rows, the chain verifies, a subscriber saw it all.

    Writers whose answer was lost ask whether the change was made, and make it if not.
    """
    key = await asyncio.to_thread(registry.command, "keys", "create", "--role", "admin", "--name", "writer")
    for agent_id in AGENTS:
        await asyncio.to_thread(Rest(registry.stores[0].http, key).register, agent_id)
    follower, progress = Follower(registry.stores, key), Progress()
    following = asyncio.create_task(follower.run())
    writers = [Writer(number, registry.stores, key, progress) for number in range(WRITERS)]
    await asyncio.to_thread(write, writers, changes // WRITERS, kills)
    last = changes + len(AGENTS)
    await eventually(lambda: follower.revision == last or following.done())
    assert not following.done(), following.exception()
    following.cancel()
    check_revisions(registry, progress, changes, last)
    check_versions(registry, changes)
    await asyncio.to_thread(check_activity, registry, changes)
    check_followed(registry, follower, last)


def write(writers: list[Writer], changes: int, kills: int) -> None:
    """Run the writers, and kill one store, then both, after each share of the changes."""
    progress, stores = writers[0].progress, writers[0].stores
    total = changes * len(writers)
    with ThreadPoolExecutor(len(writers)) as pool:
        futures = [pool.submit(writer.run, changes) for writer in writers]
        for future in futures:
            future.add_done_callback(lambda done: progress.end() if done.exception() else None)
        for kill in range(kills):
            if not progress.reached((kill + 1) * total // (kills + 1)):
                break
            victims = stores if kill % 2 else [stores[kill // 2 % 2]]
            for store in victims:
                store.kill()
            start(victims)
        for future in futures:
            future.result(BOUND_SECONDS)


def check_revisions(registry: Registry, progress: Progress, changes: int, last: int) -> None:
    """Each change has its own, without a gap; those in the answers are among them, none twice."""
    assert progress.made == changes
    assert registry.rows("SELECT revision FROM meta") == [[str(last)]]
    assert registry.rows("SELECT count(*), min(revision), max(revision) FROM changes") == [[str(last), "1", str(last)]]
    assert len(set(progress.revisions)) == len(progress.revisions) > changes / 2
    assert set(progress.revisions) <= set(range(1, last + 1))


def check_versions(registry: Registry, changes: int) -> None:
    """Each update made one version, each agent's row is its newest version, and no writer's value is missing."""
    daily = "configuration->'max_actions_per_day'"
    assert not registry.rows(
        "SELECT a.agent_id FROM agents a"
        " JOIN agent_versions v ON v.agent_id = a.agent_id AND v.minor = a.latest_minor"
        f" WHERE a.version <> '1.' || a.latest_minor || '.0' OR a.{daily} <> v.{daily}"
        " OR a.latest_minor + 1 <> (SELECT count(*) FROM agent_versions w WHERE w.agent_id = a.agent_id)"
    )
    updates = registry.rows(f"SELECT count(*), count(DISTINCT {daily}) FROM agent_versions WHERE minor > 0")
    assert updates == [[str(changes // 2)] * 2]
    assert registry.rows("SELECT count(*) FROM policies") == [[str(changes // 4)]]


def check_activity(registry: Registry, changes: int) -> None:
    """One entry for each change, in a chain that verifies."""
    counted = registry.rows("SELECT activity_type, count(*) FROM activity WHERE agent_id IS NOT NULL GROUP BY 1")
    assert {kind: int(number) for kind, number in counted} == {
        "policy_added": changes // 4,
        "registered": changes // 4 + len(AGENTS),
        "updated": changes // 2,
    }
    registry.command("verify-log")


def check_followed(registry: Registry, follower: Follower, last: int) -> None:
    """One snapshot, then each revision once and in order, up to the state that the rows have."""
    assert follower.snapshots == 1
    assert follower.steps
    assert all(start < end for start, end in follower.steps)
    assert all(one[1] == other[0] for one, other in pairwise(follower.steps))
    assert follower.steps[-1][1] == last
    seen = {agent_id: (state["metadata"], len(state["policies"])) for agent_id, state in follower.documents.items()}
    stored = registry.rows(
        "SELECT a.agent_id, a.configuration->'metadata',"
        " (SELECT count(*) FROM policies p WHERE p.agent_id = a.agent_id) FROM agents a"
    )
    assert seen == {agent_id: (json.loads(metadata), int(number)) for agent_id, metadata, number in stored}
