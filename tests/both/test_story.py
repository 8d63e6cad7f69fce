"""A payment that people must approve, from the agent's call to its settled cost: every part as a program of its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import standardwebhooks
import trustme
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from ascend import AgentAction, ApprovalState, AsyncAscendClient, Outcome
from tests import chromium
from tests.chromium import Screen
from tests.ports import reserved
from tests.programs import run, started
from tests.registry_store.alerts.receivers import Mailbox, Receiver, receiving
from tests.registry_store.serving import Rest, in_thread
from tests.waiting import BOUND_SECONDS, eventually, eventually_gives

AGENT, OTHER = "finance-payer-test", "finance-other-test"
PAYMENT = AgentAction(
    action_type="transaction.process", resource="banking_api", amount=15_000, risk_score=10, estimated_cost_usd=2
)
POLICY = {
    "policy_name": "Large transfers",
    "policy_action": "require_approval",
    "conditions": {"amount_above": 10_000},
    "action_params": {"approvers": ["ann"], "timeout_seconds": 600},
}
FEE = AgentAction(action_type="transaction.fee", resource="banking_api", amount=1, risk_score=10)
HASTY_POLICY = {
    "policy_name": "Fees at once",
    "policy_action": "require_approval",
    "conditions": {"action_type": "transaction.fee"},
    "action_params": {"approvers": ["ann"], "timeout_seconds": 1},
}


class Place(NamedTuple):
    """The registry's address and its keys, the sidecar's address, and what alerts are sent to."""

    admin: Rest
    approver: str
    sidecar: str
    receiver: Receiver
    mailbox: Mailbox
    secret: str


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, trustme.CA]]:
    authority = trustme.CA()
    with receiving(authority) as found:
        yield found, authority


@asynccontextmanager
async def place(folder: Path, receiver: Receiver, authority: trustme.CA, mailbox: Mailbox) -> AsyncIterator[Place]:
    """A registry and a sidecar that run as programs, with two agents and a policy."""
    database = ("--database", f"sqlite:///{folder / 'registry.db'}")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    with reserved() as http, reserved() as grpc, reserved() as pdp_http, reserved() as pdp:
        keys = {}
        for role, name in (("admin", "root"), ("approver", "ann"), ("sidecar", "payments")):
            made = await run("registry-store", "keys", "create", *database, "--role", role, "--name", name)
            keys[role] = made.out.strip()
        key_file = folder / "sidecar.key"
        key_file.touch(0o600)
        key_file.write_text(keys["sidecar"])
        alerts = ("--webhook-private", "--webhook-ca", str(folder / "ca.pem"), "--public-url", f"http://{http}")
        mail = ("--smtp-url", mailbox.url, "--smtp-from", "registry@example.com")
        listen = ("--http", http, "--grpc", grpc, "--auto-activate")
        data = ("--data-dir", str(folder / "sidecar"), "--listen", pdp, "--http", pdp_http)
        async with AsyncExitStack() as programs:
            await programs.enter_async_context(started("registry-store", "serve", *database, *listen, *alerts, *mail))
            admin = Rest(http, keys["admin"])
            await eventually_gives(partial(in_thread, admin.is_ready), bool)
            for agent_id in (AGENT, OTHER):
                told = {"webhook_url": receiver.url, "alert_recipients": ["ann@example.com"]}
                limits = {"max_daily_budget_usd": 100}
                await in_thread(partial(admin.register, agent_id, **told, **limits))
                for policy in (POLICY, HASTY_POLICY):
                    await in_thread(admin.post, f"/api/agents/registry/{agent_id}/policies", policy)
            serve = ("serve", "--store", grpc, "--key-file", str(key_file), "--all-agents", *data)
            await programs.enter_async_context(started("pdp", *serve))
            await eventually_gives(partial(in_thread, Rest(pdp_http, None).is_ready), bool)
            secret = (await run("registry-store", "alerts", "secret", *database)).out.strip()
            yield Place(admin, keys["approver"], pdp, receiver, mailbox, secret)


def approve(screen: Screen, link: str, key: str) -> None:
    """Follow the link of an alert, sign in, and approve."""
    screen.open(link)
    screen.press(key, Keys.ENTER)
    screen.shows("Your decision")
    assert "15,000" in screen.text
    screen.driver.find_element(By.XPATH, "//button[.='Approve']").send_keys(Keys.ENTER)
    screen.shows(", decided by ann")  # "It is approved", or "used" already: the agent waits for it


async def test_a_payment_waits_for_a_person_and_goes_on(tmp_path: Path, receiver: tuple[Receiver, trustme.CA]) -> None:
    """Held, told by webhook and mail, approved in a browser, made once, and settled at its cost; no other way works."""
    paid: list[float] = []

    async def pay() -> float:
        paid.append(3.5)
        return 3.5

    with Mailbox().open() as mailbox:
        async with place(tmp_path, *receiver, mailbox) as here:
            client = AsyncAscendClient("", AGENT, "Payer", pdp_address=here.sidecar, timeout=BOUND_SECONDS)
            async with client:
                paying = asyncio.create_task(client.run(PAYMENT, pay, cost=lambda fee: fee))
                await eventually(lambda: here.receiver.bodies and here.mailbox.mails)
                told = standardwebhooks.Webhook(here.secret).verify(here.receiver.bodies[0], here.receiver.headers[0])
                link, approval_id = told["data"]["detail"]["link"], told["data"]["detail"]["approval_id"]
                assert link in here.mailbox.mails[0][1].get_content()
                assert not paid
                with chromium.screen() as screen:
                    await in_thread(approve, screen, link, here.approver)
                assert (await paying, paid) == (3.5, [3.5])
                expired = (await client.evaluate(FEE)).approval_id
                assert (await client.wait_for_approval(expired)).state is ApprovalState.EXPIRED
                for agent_id, action, given, outcome, why in (
                    (AGENT, PAYMENT, approval_id, Outcome.REQUIRE_APPROVAL, "has been used"),
                    (AGENT, replace(PAYMENT, amount=15_001), approval_id, Outcome.BLOCK, "given for another action"),
                    (OTHER, PAYMENT, approval_id, Outcome.BLOCK, "given for another action"),
                    (AGENT, FEE, expired, Outcome.REQUIRE_APPROVAL, "has expired"),
                ):
                    again = await client.evaluate(action, agent_id=agent_id, approval_id=given)
                    assert (again.outcome, again.message.endswith(why)) == (outcome, True), again.message
            found = await eventually_gives(
                partial(in_thread, here.admin.get, f"/api/decisions?agent_id={AGENT}&reason=APPROVED"),
                lambda answer: answer.body["decisions"] and answer.body["decisions"][0]["outcome"],
            )
            usage = here.admin.get(f"/api/agents/registry/{AGENT}/usage").body
            shown = here.admin.get(f"/api/approvals/{approval_id}").body
    (allowed,) = found.body["decisions"]
    assert allowed["answer"]["outcome"] == "allow"
    assert (allowed["outcome"]["result"], allowed["outcome"]["actual_cost_usd"]) == ("succeeded", 3.5)
    assert usage["spent_today_usd"] == 3.5
    assert (shown["status"], shown["decided_by"], shown["action_outcome"]["result"]) == ("used", "ann", "succeeded")
