"""The policies on what comes later: changes of pods, commands in them, changes of namespaces."""

import copy
import re

import pytest

from tests.deploy.building import Object, build, one
from tests.deploy.pods import CASES, IMAGE, KEY, OPT_OUT, Change, agent, injected, namespace, parameters, sidecar
from tests.deploy.policies import POLICIES, Evaluation, Request, enrolled, matches, refusals, settings

# What CEL of 1.30 has, and nothing of later versions (optional types, two-variable comprehensions, lists' sort, …).
FUNCTIONS = {
    *("has", "size", "exists", "exists_one", "all", "filter", "matches", "startsWith", "split"),
    *("group", "resource", "namespace", "name", "check", "allowed"),
}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "old" in case])
def test_an_update_is_judged_as_by_the_injector(name: str) -> None:
    """An older cluster, where the injector sees updates, has the same rules."""
    case = CASES[name]
    request = Request("UPDATE", "pods", case["pod"], case["old"], case.get("subresource", ""), namespace(case))
    assert bool(refusals(request, parameters(case))) == (case["result"] == "refused")


UPDATES: dict[str, tuple[str, Change, bool]] = {
    "image of the sidecar": ("", lambda p: sidecar(p).update(image="evil"), False),
    "image of the agent": ("", lambda p: agent(p).update(image="registry.example/agent:8"), True),
    "annotation": ("", lambda p: p["metadata"]["annotations"].update(x="y"), True),
    "a smaller sidecar": ("resize", lambda p: sidecar(p)["resources"].update(limits={"memory": "1Mi"}), False),
    "a smaller agent": ("resize", lambda p: agent(p)["resources"].update(limits={"memory": "1Mi"}), True),
    "debug the agent": (
        "ephemeralcontainers",
        lambda p: p["spec"].update(ephemeralContainers=[{"name": "d", "image": "x", "targetContainerName": "agent"}]),
        True,
    ),
    "debug the sidecar": (
        "ephemeralcontainers",
        lambda p: p["spec"].update(
            ephemeralContainers=[{"name": "d", "image": "x", "targetContainerName": "pdp-sidecar"}]
        ),
        False,
    ),
    "replace the socket": (
        "ephemeralcontainers",
        lambda p: p["spec"].update(
            ephemeralContainers=[
                {"name": "d", "image": "x", "volumeMounts": [{"name": "pdp-socket", "mountPath": "/var/run/pdp"}]}
            ]
        ),
        False,
    ),
    "read the key": (
        "ephemeralcontainers",
        lambda p: p["spec"].update(
            ephemeralContainers=[{"name": "d", "image": "x", "envFrom": [{"secretRef": {"name": KEY}}]}]
        ),
        False,
    ),
}


@pytest.mark.parametrize(("subresource", "change", "admitted"), UPDATES.values(), ids=UPDATES)
def test_a_sidecar_stays_as_it_was_admitted(subresource: str, change: Change, *, admitted: bool) -> None:
    """The rest of the pod may change."""
    pod = injected()
    change(pod)
    found = refusals(Request("UPDATE", "pods", pod, injected(), subresource), parameters(CASES["plain"]))
    assert (found == []) == admitted, found


def test_a_pod_from_before_may_change() -> None:
    """It has no sidecar that could be taken from it; but it gets none by an update either."""
    old = CASES["plain"]["pod"]
    new = copy.deepcopy(old)
    new["metadata"]["annotations"] = {"reviewed": "yes"}
    assert refusals(Request("UPDATE", "pods", new, old)) == []
    new["spec"]["ephemeralContainers"] = [{"name": "d", "image": "x", "targetContainerName": "pdp-sidecar"}]
    assert refusals(Request("UPDATE", "pods", new, old, "ephemeralcontainers")) == []
    new["spec"]["containers"].append({"name": "pdp-sidecar", "image": IMAGE})
    assert refusals(Request("UPDATE", "pods", new, old))


def test_only_the_platform_team_runs_commands_in_the_sidecar() -> None:
    """In the agent's container who may run commands in pods does."""
    for what in ("exec", "attach"):
        there: Object = {"container": "pdp-sidecar"}
        team = frozenset({("sidecars", "exec")})
        assert refusals(Request("CONNECT", "pods", there, subresource=what))
        assert refusals(Request("CONNECT", "pods", there, subresource=what, rights=team)) == []
        assert refusals(Request("CONNECT", "pods", {"container": "agent"}, subresource=what)) == []
        assert refusals(Request("CONNECT", "pods", {}, subresource=what)) == []


def with_labels(**labels: str | None) -> Object:
    """An enrolled namespace whose labels are changed; None takes one away."""
    changed = enrolled()
    found = changed["metadata"]["labels"] | {f"pdp.dev/{name}": value for name, value in labels.items()}
    changed["metadata"]["labels"] = {name: value for name, value in found.items() if value is not None}
    return changed


NAMESPACES: dict[str, tuple[Object, Object, bool]] = {
    "taken out": (enrolled(), with_labels(inject=None), False),
    "taken out by another value": (enrolled(), with_labels(inject="disabled"), False),
    "without labels": (enrolled(), {"metadata": {"name": "agents"}}, False),
    "to a revision": (enrolled(), with_labels(revision="next"), False),
    "from a revision": (with_labels(revision="next"), enrolled(), False),
    "to another revision": (with_labels(revision="next"), with_labels(revision="none"), False),
    "pods may opt out": (enrolled(), enrolled(**OPT_OUT), False),
    "pods may opt out after all": (enrolled(**{"pdp.dev/allow-opt-out": "false"}), enrolled(**OPT_OUT), False),
    "pods may opt out no longer": (enrolled(**OPT_OUT), enrolled(), True),
    "another label": (enrolled(), with_labels(team="a"), True),
    "another annotation": (enrolled(**OPT_OUT), enrolled(**OPT_OUT, note="x"), True),
    "the same revision": (with_labels(revision="next"), with_labels(revision="next", team="a"), True),
    "enrolled": (with_labels(inject=None), enrolled(), True),
    "never enrolled": (with_labels(inject=None), with_labels(inject=None, revision="next"), True),
}


@pytest.mark.parametrize("subresource", ["", "status", "finalize"])
@pytest.mark.parametrize(("old", "new", "admitted"), NAMESPACES.values(), ids=NAMESPACES)
def test_only_the_platform_team_takes_a_namespace_out(
    old: Object, new: Object, subresource: str, *, admitted: bool
) -> None:
    """By whatever path the labels are changed; the team may do all of it."""
    team = frozenset({("enrolments", "update")})
    request = Request(
        "UPDATE", "namespaces", new, old, subresource, namespace=new | {"metadata": {"labels": {}} | new["metadata"]}
    )
    assert (refusals(request) == []) == admitted
    by_team = Request("UPDATE", "namespaces", new, old, subresource, request.namespace, team)
    assert refusals(by_team) == []


def test_every_validation_is_needed() -> None:
    """Each one alone refuses something: without it that would be admitted."""
    requests = [Request("CONNECT", "pods", {"container": "pdp-sidecar"}, subresource="exec")]
    for subresource, change, _ in UPDATES.values():
        pod = injected()
        change(pod)
        requests.append(Request("UPDATE", "pods", pod, injected(), subresource))
    requests += [Request("UPDATE", "namespaces", new, old) for old, new, _ in NAMESPACES.values()]
    found = [refusals(request, parameters(CASES["plain"])) for request in requests]
    alone = {messages[0] for messages in found if len(messages) == 1}
    policies = [one(build("production"), "ValidatingAdmissionPolicy", name) for name in POLICIES[1:]]
    assert {each["message"] for policy in policies for each in policy["spec"]["validations"]} == alone


def test_an_error_is_a_refusal() -> None:
    """In a match condition and in a validation, as `failurePolicy: Fail` says."""
    policy = copy.deepcopy(one(build("production"), "ValidatingAdmissionPolicy", "pdp-commands"))
    request = Request("CONNECT", "pods", {"container": "agent"}, subresource="exec")
    policy["spec"]["validations"].append({"expression": "object.missing == 1", "message": "an error"})
    assert matches(policy, request)
    assert Evaluation(policy, request, settings()).refusals() == ["an error"]
    policy["spec"]["matchConditions"] = [{"name": "x", "expression": "object.missing == 1"}]
    assert Evaluation(policy, request, settings()).refusals() == ["a match condition has no value"]


def test_the_policies_use_what_1_30_has() -> None:
    """No function that came later, and no optional type."""
    for name in POLICIES:
        spec = one(build("production"), "ValidatingAdmissionPolicy", name)["spec"]
        parts = [*spec.get("matchConditions", []), *spec.get("variables", []), *spec["validations"]]
        for expression in (part["expression"] for part in parts):
            bare = re.sub(r"'[^']*'", "''", expression)
            assert set(re.findall(r"(\w+)\(", bare)) <= FUNCTIONS, expression
            assert ".?" not in bare
            assert "optional" not in bare


def test_no_match_condition_asks_for_the_namespace() -> None:
    """The API server does not tell it to them."""
    for name in POLICIES:
        spec = one(build("production"), "ValidatingAdmissionPolicy", name)["spec"]
        assert "namespaceObject" not in str(spec.get("matchConditions"))
