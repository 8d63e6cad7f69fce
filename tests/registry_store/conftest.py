"""Stores for tests, on SQLite and on PostgreSQL: what is asked of the one is asked of the other."""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from registry_store.database import migrate
from registry_store.settings import Settings, database_url
from tests import postgresql
from tests.postgresql import Cluster
from tests.registry_store.serving import PATIENT, Rest, Served, in_own_loop, served

MakeSettings = Callable[[Path], Settings]


def settings_in(folder: Path, **changed: object) -> Settings:
    """Settings of a store on SQLite in this folder, on free ports; the database is there, at the newest schema."""
    database = folder / "registry.db"
    if "database" not in changed and not database.exists():
        shutil.copyfile(_sqlite_template(), database)
    values = {"database": f"sqlite:///{database}", "http": "127.0.0.1:0", "grpc": "127.0.0.1:0"}
    return Settings(**{**values, **changed})  # type: ignore[arg-type]


@cache
def _sqlite_template() -> Path:
    """A database at the newest schema, to be copied: migrating each time takes longer than most tests."""
    folder = tempfile.mkdtemp(prefix="registry-template-")
    atexit.register(shutil.rmtree, folder)
    path = Path(folder) / "registry.db"
    in_own_loop(migrate.migrated(database_url(f"sqlite:///{path}")))
    return path


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The PostgreSQL server of this run."""
    with postgresql.cluster() as running:
        yield running


@pytest.fixture(scope="session")
def template(cluster: Cluster) -> str:
    """A database at the newest schema, to be copied."""
    name = cluster.create()
    in_own_loop(migrate.migrated(database_url(cluster.url(name))))
    return name


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    """Which database: whatever uses it, or `settings`, `store` or `admin`, runs once on each."""
    kind: str = request.param
    return kind


@pytest.fixture(scope="module")
def settings_for(backend: str, request: pytest.FixtureRequest) -> Iterator[MakeSettings]:
    """Makes the settings of a store on a database of its own, with its files in a folder."""
    if backend == "sqlite":
        yield settings_in
        return
    made: list[str] = []
    cluster, template = request.getfixturevalue("cluster"), request.getfixturevalue("template")

    def on_postgresql(folder: Path) -> Settings:
        made.append(cluster.create(template))
        return settings_in(folder, database=cluster.url(made[-1]), pepper_file=folder / "registry.pepper")

    yield on_postgresql
    for name in made:
        cluster.drop(name)


@pytest.fixture
def settings(settings_for: MakeSettings, tmp_path: Path) -> Settings:
    """Settings of a store on a new database, on free ports; on SQLite and on PostgreSQL."""
    return settings_for(tmp_path)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Cluster, Settings]]:
    """A server of the test's own, which it may stop, and settings of a store on it."""
    with postgresql.cluster() as cluster:
        url = cluster.url(cluster.create())
        in_own_loop(migrate.migrated(database_url(url)))
        yield cluster, settings_in(tmp_path, database=url, pepper_file=tmp_path / "registry.pepper")


@pytest.fixture(scope="module")
def store(settings_for: MakeSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One store for the tests of a module; each test uses ids of its own."""
    with served(settings_for(tmp_path_factory.mktemp("store")), PATIENT) as running:
        yield running


@pytest.fixture(scope="module")
def admin(store: Served) -> Rest:
    """The REST interface of `store`, with an admin's key."""
    return store.rest("admin")


@pytest.fixture
def fresh(settings: Settings) -> Iterator[Served]:
    """A store on a new database."""
    with served(settings, PATIENT) as running:
        yield running


@pytest.fixture
def two(settings: Settings) -> Iterator[tuple[Served, Served]]:
    """Two stores on one new database."""
    with served(settings) as one, served(settings) as other:
        yield one, other
