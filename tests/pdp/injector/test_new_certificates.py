"""Reviews while the certificate is replaced: no handshake fails, and none is left without an answer."""

import asyncio
import json
from pathlib import Path

import pytest

from pdp.injector import app
from pdp.serving.tls import reloaded
from tests.pdp.injector.calling import PATH, Caller, Webhook, webhook
from tests.pdp.injector.cases import load
from tests.tls.certificates import write_pair
from tests.waiting import eventually

REVIEWS_A_CONNECTION = 5
CALLERS = 8
PLAIN = json.dumps(next(case for case in load() if case.name == "plain").request()).encode()


@pytest.fixture(autouse=True)
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "END_SECONDS", 0.0)


async def test_reviews_while_certificates_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as the files are looked at."""
    monkeypatch.setattr(reloaded, "POLL_SECONDS", 0.02)
    async with webhook(tmp_path) as served:
        seen = await reviewed(served, reviews=240, replace_seconds=0.02)
    assert len(seen) > 2


@pytest.mark.soak
async def test_ten_thousand_reviews_while_certificates_are_replaced_each_second(tmp_path: Path) -> None:
    """With the interval that a running injector has."""
    async with webhook(tmp_path) as served:
        seen = await reviewed(served, reviews=10_000, replace_seconds=1.0)
    assert len(seen) > 5


async def test_a_mismatched_pair_leaves_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each handshake goes on with the certificate that fits its key."""
    monkeypatch.setattr(reloaded, "POLL_SECONDS", 0.01)
    async with webhook(tmp_path) as served:
        key = served.folder / "tls.key"
        key.unlink()
        key.write_bytes(write_pair(tmp_path / "other", served.authority).key.read_bytes())
        key.chmod(0o600)
        await eventually(lambda: "is not the key of the certificate" in caplog.text)
        assert len(await reviewed(served, reviews=10, replace_seconds=None)) == 1


async def reviewed(served: Webhook, reviews: int, replace_seconds: float | None) -> set[str]:
    """Have reviews answered by many connections; the serial numbers of the certificates that they saw."""
    seen: set[str] = set()
    rest = iter(range(reviews // REVIEWS_A_CONNECTION))
    context = served.context()

    async def call() -> None:
        for _ in rest:
            caller = await Caller.connect(served.injector.address, context)
            seen.add(caller.certificate["serialNumber"])
            for _ in range(REVIEWS_A_CONNECTION):
                answer = await caller.call("POST", PATH, PLAIN)
                assert answer.body["response"]["patchType"] == "JSONPatch"
            caller.close()

    async def replace(seconds: float) -> None:
        while True:
            await asyncio.to_thread(write_pair, served.folder, served.authority)
            await asyncio.sleep(seconds)

    replacing = [] if replace_seconds is None else [asyncio.create_task(replace(replace_seconds))]
    try:
        await asyncio.gather(*(call() for _ in range(CALLERS)))
    finally:
        for task in replacing:
            task.cancel()
        await asyncio.gather(*replacing, return_exceptions=True)
    assert served.metrics()['pdp_injector_reviews_total{result="injected"}'] >= reviews
    return seen
