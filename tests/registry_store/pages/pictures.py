"""`python -m tests.registry_store.pages.pictures` takes the pictures of the page of an approval that the docs show."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from selenium.webdriver.common.keys import Keys

from tests import chromium
from tests.registry_store.approving import record
from tests.registry_store.conftest import settings_in
from tests.registry_store.reporting import decision, report
from tests.registry_store.serving import PATIENT, Served, served

FOLDER = Path(__file__).parents[3] / "docs" / "how-to"
AGENT = "finance-payments-prod"


def asked(store: Served) -> str:
    """The id of an approval as a person meets it."""
    admin, now = store.rest(), datetime.now(UTC)
    metadata = {"owner": "treasury", "cost_center": "4100"}
    admin.register(
        AGENT, display_name="Payments", description="Pays approved invoices", tags=["finance"], metadata=metadata
    )
    admin.post(f"/api/agents/registry/{AGENT}/activate")
    body = {
        "policy_name": "Large payments",
        "policy_description": "Two people of finance approve what is above 5,000.",
        "conditions": {"action_type": "payment.send", "amount_above": 5000},
        "policy_action": "require_approval",
    }
    policy = admin.post(f"/api/agents/registry/{AGENT}/policies", body).body
    wanted = record(
        agent_id=AGENT,
        action_type="payment.send",
        resource="bank",
        amount=15000,
        attributes={"invoice": 4711, "payee": "Northwind Ltd", "iban": "[redacted]"},
        timeout=900,
        params={"approvers": ["finance-approvers"], "min_approvers": 2},
    )
    wanted["answer"]["message"] = "policy `Large payments` requires an approval"
    wanted["answer"]["policy"] = {"id": policy["policy_id"], "name": "Large payments", "priority": 10}
    done = (("payment.send", 120.5), ("payment.send", 1890), ("invoice.read", None), ("invoice.read", None))
    report(
        store,
        *(
            decision(
                agent_id=AGENT,
                at=now - timedelta(minutes=7 * n),
                action={"action_type": name, "resource": "bank", "amount": amount},
            )
            for n, (name, amount) in enumerate(done, 1)
        ),
        wanted,
    )
    approval_id: str = wanted["opens"]["approval_id"]
    bob = {"role": "approver", "name": "bob", "groups": ["finance-approvers"]}
    voter = type(admin)(admin.address, admin.post("/api/keys", bob).body["key"])
    voter.post(f"/api/approvals/{approval_id}/approve", {"comment": "the invoice is in the archive"})
    return approval_id


def main() -> None:
    """Take them, on a desktop and on a phone."""
    with (
        TemporaryDirectory() as folder,
        served(settings_in(Path(folder)), PATIENT) as store,
        chromium.screen() as screen,
    ):
        path = f"/approvals/{asked(store)}"
        ann = {"role": "approver", "name": "ann", "groups": ["finance-approvers"]}
        key = store.rest().post("/api/keys", ann).body["key"]
        screen.open(f"http://{store.running.http_address}{path}")
        screen.press(key, Keys.ENTER)
        screen.shows("Your decision")
        screen.picture(FOLDER / "approval-desktop.png")
        screen.be_a_phone()
        screen.open(f"http://{store.running.http_address}{path}")
        screen.picture(FOLDER / "approval-phone.png", 0.5)


if __name__ == "__main__":
    main()
