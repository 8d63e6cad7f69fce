"""docs/reference/registry.md shows what the store answers."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from registry_store.rest.table import routes
from tests import console
from tests.registry_store import commands
from tests.registry_store.reporting import tell_usage_as_of
from tests.registry_store.serving import Served, in_own_loop
from tests.waiting import eventually

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "registry.md").read_text()
COMMANDS = [command for command in console.commands(PAGE) if commands.runs(command)]


def test_every_command_of_the_page_prints_what_it_shows(fresh: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in order, as printed, against a fresh store: the same status and the same answer.

    However long that takes: what counts by the minute and by the day is asked for as of when the decisions were made.
    """
    at = datetime.now(UTC)
    tell_usage_as_of(at, monkeypatch)
    session = commands.Session(fresh, at)
    for command in COMMANDS:
        follow(fresh)
        assert commands.steady(session.printed(command)) == commands.steady(command.shown), command.text


def follow(store: Served) -> None:
    """Return once the store's feed has the newest revision, which probes and metrics tell, and alerts were tried."""
    ((revision,),) = store.sql("SELECT revision FROM meta")
    in_own_loop(eventually(lambda: store.running._store.feed.revision == revision))
    in_own_loop(eventually(lambda: store.sql("SELECT count(*) FROM alerts WHERE status = 'pending'") == [(0,)]))


def test_the_page_shows_every_route() -> None:
    """Each route of the interface is called by one of the page's commands."""
    called = set()
    for command in COMMANDS:
        method = re.search(r"-X ([A-Z]+)", command.text)
        default = "POST" if " -d " in command.text else "GET"
        path = re.search(r"127\.0\.0\.1:8080(/[^\s?'\"]*)", command.text)
        assert path, command.text
        called.add((method[1] if method else default, path[1]))
    for route in routes():
        if not route.path.startswith("/api/agents/declarations"):
            pattern = re.compile(re.sub(r"\{\w+\}", "[^/]+", route.path))
            assert any(method == route.method and pattern.fullmatch(path) for method, path in called), route
