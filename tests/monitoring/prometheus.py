"""Debian's Prometheus for tests: it scrapes and evaluates rules in a temporary folder, and answers queries.

Where it is missing, `python -m tests.monitoring.prometheus` says how to install it; with `installed`, by exit code 1.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from tests.ports import reserved
from tests.waiting import BOUND_SECONDS, eventually_gives

PROGRAMS = ("prometheus", "promtool")
MISSING = "Prometheus is not installed; the tests of metrics need: apt-get install --yes prometheus"
INTERVAL = "500ms"


class Prometheus:
    """A running server."""

    def __init__(self, address: str) -> None:
        self._url = f"http://{address}/api/v1"
        self._pool = urllib3.PoolManager(retries=False, timeout=BOUND_SECONDS)

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The vector that an expression gives now; fails if Prometheus does not take it."""
        answer = await self._call("query", {"query": expression})
        assert answer["status"] == "success", (expression, answer)
        found = answer["data"]["result"]
        return found if answer["data"]["resultType"] == "vector" else []

    async def labels(self) -> dict[str, list[dict[str, str]]]:
        """The labels of every series that it has, by the name of the metric."""
        answer = await self._call("series", {"match[]": '{__name__!=""}'})
        found: dict[str, list[dict[str, str]]] = {}
        for series in answer["data"]:
            found.setdefault(series.pop("__name__"), []).append(series)
        return found

    async def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            return (await self._call("query", {"query": "1"}))["status"] == "success"
        except (urllib3.exceptions.HTTPError, json.JSONDecodeError):
            return False

    def close(self) -> None:
        """Closes its connections."""
        self._pool.clear()

    async def _call(self, path: str, fields: Mapping[str, str]) -> dict[str, Any]:
        answer = await asyncio.to_thread(self._pool.request, "GET", f"{self._url}/{path}", fields=dict(fields))
        found: dict[str, Any] = json.loads(answer.data)
        return found


@asynccontextmanager
async def scraping(
    folder: Path, jobs: Sequence[Mapping[str, Any]], rules: Mapping[str, Any]
) -> AsyncIterator[Prometheus]:
    """A Prometheus with these scrape jobs and rules, once every target has been scraped twice."""
    need_prometheus()
    (folder / "rules.yaml").write_text(yaml.safe_dump(dict(rules)))
    paces = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
    config = {"global": paces, "rule_files": ["rules.yaml"], "scrape_configs": list(jobs)}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with reserved() as address, (folder / "prometheus.log").open("wb") as log:
        command = [
            str(shutil.which("prometheus")),
            f"--config.file={folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={folder / 'prometheus'}",
            f"--web.listen-address={address}",
        ]
        with subprocess.Popen(command, stdout=log, stderr=log) as process:  # noqa: ASYNC220 - it only starts it
            prometheus = Prometheus(address)
            try:
                await eventually_gives(prometheus.is_ready, bool)
                await eventually_gives(lambda: prometheus.query("sum(count_over_time(up[1h]) >= bool 2)"), _all(jobs))
                yield prometheus
            finally:
                prometheus.close()
                process.terminate()
                process.wait(BOUND_SECONDS)


def promtool(*arguments: str | Path) -> str:
    """What promtool prints; fails if it finds a fault."""
    need_prometheus()
    ended = subprocess.run([str(shutil.which("promtool")), *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def need_prometheus() -> None:
    """Without it the test is skipped, and in CI, which skips nothing, it fails."""
    if is_installed():
        return
    if os.environ.get("CI") == "true":
        pytest.fail(MISSING)
    pytest.skip(MISSING)


def is_installed() -> bool:
    """Whether the server and its tool are there."""
    return all(shutil.which(program) for program in PROGRAMS)


def _all(jobs: Sequence[Mapping[str, Any]]) -> Any:
    targets = sum(len(one["targets"]) for job in jobs for one in job["static_configs"])
    return lambda found: found and float(found[0]["value"][1]) == targets


if __name__ == "__main__" and not is_installed():
    sys.exit(MISSING) if "installed" in sys.argv else sys.stderr.write(f"{MISSING}\n")
