"""The pages of approvals: what waits, all that a person needs to decide, and the decision."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from registry_store.pages.rendering import MAX_CHARACTERS
from registry_store.settings import Settings
from tests.registry_store.approving import open_all, opened, record
from tests.registry_store.browsing import FORM, browser, stranger
from tests.registry_store.reporting import decision, report
from tests.registry_store.serving import PATIENT, Rest, Served, served

COMMENT = "invoice 4711 checked"


def approval(admin: Rest, approval_id: str) -> dict[str, object]:
    answer = admin.get(f"/api/approvals/{approval_id}")
    assert answer.status == 200, answer.body
    found: dict[str, object] = answer.body
    return found


def approved_so_far(metrics: str) -> float:
    found = re.search(r'registry_store_approvals_total\{state="approved"\} (\S+)', metrics)
    return float(found[1]) if found else 0.0


def notice(body: str) -> str:
    """What the page says went wrong."""
    found = re.search(r'<p class="notice" role="alert">(.*?)</p>', body)
    return re.sub("<[^>]*>", "", found[1]) if found else ""


def test_a_page_shows_all_that_a_decision_needs(store: Served, admin: Rest) -> None:
    """The action, why it was held, the policy, the agent, what it did in the last hour, and who decides."""
    agent_id, now = "finance-payments-page", datetime.now(UTC)
    admin.register(agent_id, description="Pays invoices", tags=["finance"])
    body = {"policy_name": "Large payments", "policy_description": "Over 5,000", "conditions": {"amount_above": 5000}}
    policy = admin.post(f"/api/agents/registry/{agent_id}/policies", body | {"policy_action": "require_approval"}).body
    asked = record(agent_id=agent_id, amount=15000, attributes={"invoice": {"number": 4711}}, tool="")
    asked["answer"]["policy"] = {"id": policy["policy_id"], "name": "Large payments", "priority": 10}
    asked["answer"]["message"] = "policy `Large payments` requires an approval"
    asked["answer"]["action_params"] = {"approvers": ["finance"], "min_approvers": 2}
    report(
        store,
        decision("block", agent_id=agent_id, action={"action_type": "ledger.delete"}),
        decision(
            agent_id=agent_id, at=now - timedelta(minutes=50), action={"action_type": "ledger.read", "amount": 7.5}
        ),
        decision(agent_id=agent_id, at=now - timedelta(minutes=70), action={"action_type": "ledger.old"}),
        decision(action={"action_type": "ledger.foreign"}),
        asked,
    )
    approval_id = asked["opens"]["approval_id"]
    text = browser(store, "approver", "ann", "finance").get(f"/approvals/{approval_id}").text
    for shown in (
        "transaction.process on banking_api",
        "amount 15,000",
        '"number": 4711',
        "policy `Large payments` requires an approval",
        "risk 50",
        "its description Over 5,000",
        '"amount_above": 5000',
        "name finance-payments-page",
        "description Pays invoices",
        "status draft",
        "3 decisions:",
        "ledger.delete on ledger block · RESOURCE_BLOCKED",
        "ledger.read on ledger, amount 7.5 allow",
        "approvers finance",
        "people needed 2",
        "MFA required no",
        "min left",
    ):
        assert shown in text, shown
    assert "ledger.old" not in text
    assert "ledger.foreign" not in text
    assert "tool" not in text


def test_what_the_store_does_not_know_is_said(store: Served) -> None:
    """An agent that is not registered, a policy that is gone, no decision in the last hour."""
    text = browser(store).get(f"/approvals/{opened(store, agent_id='nobodys-agent-page')}").text
    assert "It is not registered." in text
    assert "This policy no longer exists." in text
    assert "Nothing that the store knows of." in text


def test_every_text_of_a_caller_is_escaped_and_seen(store: Served, admin: Rest) -> None:
    """Markup is text; a character that turns the order of others, or is not seen, is shown as its code."""
    evil = "<b onload=x>'\"&\u202etxt.exe\u200b"
    agent_id = "evil-agent-page"
    admin.register(agent_id, display_name=evil, description=f"one\n{evil}", metadata={"owner": evil}, tags=[evil])
    asked = record(
        agent_id=agent_id, resource=evil, attributes={evil: evil}, environment=evil, data_classifications=[evil]
    )
    asked["action"]["action_type"] = evil
    asked["answer"]["message"] = asked["answer"]["policy"]["name"] = evil
    asked["answer"]["action_params"] = {"approvers": [evil], "min_approvers": 2}
    report(store, decision(agent_id=agent_id, action={"action_type": evil, "resource": evil}))
    (approval_id,) = open_all(store, asked)
    person = browser(store, "admin", evil)
    assert person.decide(approval_id, "approve", evil).status == 303
    pages = [person.get(path) for path in ("/approvals", f"/approvals/{approval_id}")]
    pages.append(browser(store, "viewer", "vic").decide(approval_id, "deny", evil))
    for page in pages:
        assert "<b " not in page.body
        assert "\u202e" not in page.body.replace("&#34;", "")
        assert "\u200b" not in page.body
        assert r"<mark>\u202e</mark>txt.exe<mark>\u200b</mark>" in page.body
    assert pages[1].body.count(r"<mark>\u202e</mark>") >= 15


def test_a_text_that_is_too_long_says_so(store: Served) -> None:
    """The page shows its start, and how much it leaves out."""
    approval_id = opened(store, attributes={"note": "x" * (MAX_CHARACTERS + 1000)})
    text = browser(store).get(f"/approvals/{approval_id}").text
    assert "… and 1,011 more characters, which this page does not show" in text


def test_what_waits_is_listed_for_me_first(fresh: Served) -> None:
    """Then what others decide; within each, what expires soonest. What is decided is not there."""
    at = datetime.now(UTC)
    mine = [opened(fresh, resource=f"mine-{n}", timeout=600 * n, at=at) for n in (2, 1)]
    others = opened(fresh, resource="theirs", timeout=60, params={"approvers": ["somebody"]}, at=at)
    done = opened(fresh, resource="done", at=at)
    fresh.rest().post(f"/api/approvals/{done}/deny", {"comment": "no"})
    page = browser(fresh).get("/approvals")
    assert re.findall(r'href="/approvals/([^"]+)"', page.body) == [mine[1], mine[0], others]
    assert "3 wait, 2 of them for you." in page.text
    assert [page.text.index(shown) for shown in ("For you", "For others")] == sorted(
        page.text.index(shown) for shown in ("For you", "For others")
    )
    assert "For you" not in browser(fresh, "viewer", "vic").get("/approvals").text
    assert "2 approvals wait for you" in browser(fresh, "approver", "bob").get("/", accept="text/html").text


def test_a_long_list_goes_on(fresh: Served) -> None:
    """Fifty a page, from the start and to the end."""
    open_all(fresh, *(record(resource=f"r{n}") for n in range(51)))
    person = browser(fresh)
    first, second = person.get("/approvals"), person.get("/approvals?offset=50")
    assert 'href="/approvals?offset=50"' in first.body
    assert (first.body.count("<li>"), second.body.count("<li>")) == (50, 1)
    assert "?offset" not in second.body


def test_a_person_approves_on_the_page(store: Served, admin: Rest) -> None:
    """With the same effect as over REST, recorded as done by the dashboard with this key."""
    approval_id, before = opened(store), admin.get("/metrics").body
    person = browser(store)
    answer = person.decide(approval_id, "approve", f"{COMMENT}\r\nsecond line")
    assert (answer.status, answer.location) == (303, f"/approvals/{approval_id}")
    shown = approval(admin, approval_id)
    assert (shown["status"], shown["decided_by"], shown["comment"]) == ("approved", "ann", f"{COMMENT}\nsecond line")
    (entry,) = admin.get(f"/api/activity?subject_id={approval_id}&type=approval_approved").body["activities"]
    (key,) = {one["key_id"] for one in admin.get("/api/keys").body["keys"][:1]}
    assert (entry["performed_by"], entry["performed_via"], entry["key_id"]) == ("ann", "dashboard", key)
    page = person.get(answer.location)
    assert "It is approved, decided by ann" in page.text
    assert COMMENT in page.text
    assert 'name="verdict"' not in page.body
    assert approved_so_far(admin.get("/metrics").body) == approved_so_far(before) + 1


def test_a_person_denies_on_the_page(store: Served, admin: Rest) -> None:
    """With a comment; without one the page says so, and nothing is decided."""
    approval_id, person = opened(store), browser(store)
    page = person.decide(approval_id, "deny", " ")
    assert (page.status, notice(page.body)) == (422, "`comment` is required")
    assert approval(admin, approval_id)["status"] == "pending"
    assert person.decide(approval_id, "deny", "paid already").status == 303
    shown = approval(admin, approval_id)
    assert (shown["status"], shown["comment"]) == ("denied", "paid already")


def test_an_escalation_is_for_its_team_and_takes_a_comment(store: Served, admin: Rest) -> None:
    """Others are told whose it is, and get no form; an admin who is not in the team among them."""
    asked = record()
    asked["answer"] |= {"outcome": "escalate", "action_params": {"team": "risk"}}
    (approval_id,) = open_all(store, asked)
    for outsider in (browser(store, "admin"), browser(store, "approver", "bob", "finance")):
        page = outsider.get(f"/approvals/{approval_id}")
        assert "is for team `risk` to decide" in page.text
        assert 'name="verdict"' not in page.body
        page = outsider.decide(approval_id, "approve", COMMENT)
        assert (page.status, "is for team `risk` to decide" in notice(page.body)) == (403, True)
    member = browser(store, "admin", "root", "risk")
    assert "It is required." in member.get(f"/approvals/{approval_id}").text
    page = member.decide(approval_id, "approve")
    assert (page.status, notice(page.body)) == (422, "`comment` is required")
    assert member.decide(approval_id, "approve", COMMENT).status == 303
    assert approval(admin, approval_id)["status"] == "approved"


def test_two_people_approve_one_after_the_other(store: Served, admin: Rest) -> None:
    """The page shows the first to the second; the same person twice is one."""
    approval_id = opened(store, params={"min_approvers": 2})
    ann, bob = browser(store), browser(store, "approver", "bob")
    assert ann.decide(approval_id, "approve", COMMENT).status == 303
    again = ann.decide(approval_id, "approve", "once more")
    assert (again.status, "another person must" in notice(again.body)) == (409, True)
    assert "You have approved it." in again.text
    assert f"approved by ann: {COMMENT}" in bob.get(f"/approvals/{approval_id}").text
    assert approval(admin, approval_id)["status"] == "pending"
    assert bob.decide(approval_id, "approve").status == 303
    assert approval(admin, approval_id)["status"] == "approved"


def test_mfa_is_shown_and_required_where_the_store_requires_it(settings: Settings) -> None:
    """A key that was made without it is told so on the page."""
    with served(replace(settings, approver_mfa=True), PATIENT) as store:
        asked = record()
        asked["answer"]["mfa_required"] = True
        (approval_id,) = open_all(store, asked)
        without = browser(store)
        page = without.get(f"/approvals/{approval_id}")
        assert ("MFA required yes" in page.text, "needs MFA" in page.text) == (True, True)
        assert without.decide(approval_id, "approve", COMMENT).status == 403
        assert browser(store, "approver", "bob", mfa=True).decide(approval_id, "approve", COMMENT).status == 303


def test_what_was_decided_meanwhile_is_told(store: Served, admin: Rest) -> None:
    """409, by whom, and with the comment that was written kept out of the way."""
    approval_id, person = opened(store), browser(store)
    token = person.token()
    admin.post(f"/api/approvals/{approval_id}/deny", {"comment": "no budget"})
    page = person.send(f"/approvals/{approval_id}", csrf_token=token, verdict="approve", comment=COMMENT)
    assert (page.status, "is denied" in notice(page.body)) == (409, True)
    assert "decided by tester" in page.text
    assert "no budget" in page.text


def test_what_has_expired_cannot_be_decided(store: Served) -> None:
    """409; the page says that it is expired."""
    approval_id = opened(store, timeout=60, at=datetime.now(UTC) - timedelta(seconds=61))
    page = browser(store).decide(approval_id, "approve", COMMENT)
    assert (page.status, "is expired" in notice(page.body)) == (409, True)


def test_a_viewer_reads_and_does_not_decide(store: Served, admin: Rest) -> None:
    """No form, and 403."""
    approval_id, viewer = opened(store), browser(store, "viewer", "vic")
    page = viewer.get(f"/approvals/{approval_id}")
    assert (page.status, 'name="verdict"' in page.body) == (200, False)
    page = viewer.decide(approval_id, "approve", COMMENT)
    assert (page.status, "to decide" in notice(page.body)) == (403, True)
    assert approval(admin, approval_id)["status"] == "pending"


def test_a_comment_is_kept_when_the_decision_is_not_taken(store: Served) -> None:
    """Escaped, as it was written."""
    asked = record()
    asked["answer"] |= {"outcome": "escalate", "action_params": {"team": "risk"}}
    (approval_id,) = open_all(store, asked)
    member = browser(store, "approver", "eve", "risk")
    page = member.send(f"/approvals/{approval_id}", csrf_token="x", verdict="approve", comment="<i>a</i>\r\n b")
    assert (page.status, "out of date" in notice(page.body)) == (403, True)
    assert ">&lt;i&gt;a&lt;/i&gt;\n b</textarea>" in page.body


def test_a_form_of_another_session_decides_nothing(store: Served, admin: Rest) -> None:
    """Nor one without a token: another site cannot know it."""
    approval_id, person, other = opened(store), browser(store), browser(store, "approver", "bob")
    for fields, status in (({"csrf_token": other.token()}, 403), ({}, 422)):
        page = person.send(f"/approvals/{approval_id}", verdict="approve", comment=COMMENT, **fields)
        assert (page.status, page.status == 403) == (status, "out of date" in notice(page.body))
    assert approval(admin, approval_id)["status"] == "pending"


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b'{"verdict": "approve"}', "application/json", 415),
        (b"--x--", "multipart/form-data; boundary=x", 415),
        (b"verdict=approve", "", 415),
        (b"verdict=approve&verdict=approve", FORM, 422),
        (b"verdict=maybe", FORM, 422),
        (b"verdict=approve&colour=red", FORM, 422),
        (b"verdict=approve&comment=" + b"x" * 4097, FORM, 422),
        (b"verdict=approve&comment=%00", FORM, 422),
        (b"verdict", FORM, 400),
        (b"verdict=%ff", FORM, 400),
        (b"verdict=\xff", FORM, 400),
        (b"&".join(b"a%d=" % n for n in range(11)), FORM, 400),
        (b"comment=" + b"x" * 65_536, FORM, 413),
    ],
)
def test_a_bad_form_is_refused_in_words(store: Served, admin: Rest, body: bytes, kind: str, status: int) -> None:
    """Whatever else it holds, it decides nothing."""
    approval_id, person = opened(store), browser(store)
    sent = body + b"&csrf_token=" + person.token().encode()
    page = person.call("POST", f"/approvals/{approval_id}", sent, content_type=kind)
    assert (page.status, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert notice(page.body)
    assert approval(admin, approval_id)["status"] == "pending"


def test_every_answer_keeps_the_browser_strict(store: Served) -> None:
    """Pages, errors and redirects: no script, no other host, no frame, no copy kept."""
    person, approval_id = browser(store), opened(store)
    answers = [
        *(
            person.get(path)
            for path in ("/approvals", f"/approvals/{approval_id}", "/approvals/none", "/approvals?x=1")
        ),
        *(stranger(store).get(path) for path in ("/sign-in", "/approvals")),
        person.get("/", accept="text/html"),
        person.get("/sign-in"),
        person.decide(approval_id, "approve"),
        person.call("POST", "/sign-out", b""),
    ]
    assert [one.status for one in answers] == [200, 200, 404, 422, 200, 200, 200, 303, 303, 415]
    for answer in answers:
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
        assert "form-action 'self'; frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_an_approval_that_is_not_there_is_a_page(store: Served) -> None:
    """404 in words, and so is a parameter that the page does not have."""
    person = browser(store)
    page = person.get("/approvals/01920000-0000-7000-8000-000000000001")
    assert (page.status, notice(page.body)) == (404, "no approval `01920000-0000-7000-8000-000000000001`")
    page = person.get("/approvals?colour=red")
    assert (page.status, notice(page.body)) == (422, "`colour`: unknown parameter")


def test_a_page_is_a_route_like_the_others(store: Served, admin: Rest) -> None:
    """A wrong method is 405 with the right ones, HEAD has no body, and metrics count by route."""
    answer = admin.call("DELETE", f"/approvals/{opened(store)}")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    head = stranger(store).call("HEAD", "/approvals")
    assert (head.status, head.body) == (200, "")
    metrics = admin.get("/metrics").body
    assert re.search(r'requests_total\{.*route="/approvals/\{approval_id\}"', metrics)


def test_nothing_is_decided_by_reading(store: Served, admin: Rest) -> None:
    """A scanner of mail that follows links changes nothing."""
    approval_id = opened(store)
    person = browser(store)
    person.get(f"/approvals/{approval_id}?verdict=approve&csrf_token={person.token()}")
    assert approval(admin, approval_id)["status"] == "pending"
