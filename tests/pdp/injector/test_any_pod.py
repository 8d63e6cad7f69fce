"""Pods changed at random, from the golden ones: whatever comes out is safe to give to an API server."""

import copy
import json
from typing import Any

import jsonpatch
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdp.injector import review
from pdp.injector.verdicts import Result
from tests.pdp.injector import schemas
from tests.pdp.injector.api_server import defaulted
from tests.pdp.injector.cases import Case, admission_review, load
from tests.pdp.injector.kept import lost

CASES = [case for case in load() if "old" not in case.given]
EXCLUDED = next(case for case in CASES if case.name == "excluded-namespace")

names = st.from_regex(r"[a-z]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True) | st.sampled_from(["pdp-sidecar", "pdp-key"])
paths = st.sampled_from(["/data", "/var/run", "/var/run/pdp", "/run/pdp/x", "/var/run/pdpx", "//var/run/pdp", "/"])
variables = st.sampled_from(["A", "PDP_ADDRESS", "PDP_FAIL_MODE", "PDP_HTTP_ADDRESS", "PDP_X"])
environment = st.fixed_dictionaries({"name": variables, "value": st.sampled_from(["closed", "open", "x", "$(A)"])})
mounts = st.fixed_dictionaries(
    {"name": st.sampled_from(["data", "pdp-socket"]), "mountPath": paths}, optional={"readOnly": st.booleans()}
)
ports = st.fixed_dictionaries({"containerPort": st.sampled_from([80, 9181, 9182])})
containers = st.fixed_dictionaries(
    {"name": names, "image": st.just("registry.example/x:1")},
    optional={
        "env": st.none() | st.lists(environment, max_size=3),
        "volumeMounts": st.none() | st.lists(mounts, max_size=2),
        "ports": st.lists(ports, max_size=2),
        "restartPolicy": st.just("Always"),
        "securityContext": st.fixed_dictionaries({"runAsUser": st.integers(0, 70_000)}),
        "workingDir": st.just("/work"),
    },
)
annotations = st.dictionaries(
    st.sampled_from(
        ["pdp.dev/cpu", "pdp.dev/memory", "pdp.dev/drain-seconds", "pdp.dev/agent-id", "pdp.dev/status", "a~b/c", "x"]
    ),
    st.sampled_from(["1", "100m", "0.25", "128Mi", "200M", "5", "agent-1", "", "injected: default"]),
    max_size=3,
)
changes = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["initContainers", "containers"]), containers, st.booleans()),
        st.tuples(st.just("annotations"), annotations, st.just(True)),
        st.tuples(
            st.sampled_from(["hostNetwork", "hostPID", "shareProcessNamespace", "automountServiceAccountToken"]),
            st.booleans(),
            st.just(True),
        ),
        st.tuples(st.just("terminationGracePeriodSeconds"), st.integers(0, 100), st.just(True)),
        st.tuples(st.just("volumes"), st.fixed_dictionaries({"name": names, "emptyDir": st.just({})}), st.booleans()),
    ),
    max_size=4,
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 70_000) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "env", "x"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@given(st.sampled_from(CASES), changes)
@settings(max_examples=100)
def test_an_admitted_pod_is_valid_stable_and_whole(case: Case, made: list[tuple[str, Any, bool]]) -> None:
    """It validates if it did before, a second call changes nothing, and all that was there is kept."""
    pod = changed(case.pod, made)
    verdict = case.verdict(pod)
    if not verdict.allowed:
        assert verdict.reason
        assert verdict.message
        assert not verdict.patch
        return
    after = jsonpatch.apply_patch(pod, list(verdict.patch))
    assert list(lost(pod, after)) == []
    if schemas.problem(pod) is None:
        assert schemas.problem(after) is None
    if verdict.result is Result.SKIPPED:
        return
    assert case.verdict(after).result is Result.UNCHANGED
    assert case.verdict(defaulted(after)).result is Result.UNCHANGED


@given(st.sampled_from(CASES), st.data())
@settings(max_examples=100)
def test_a_pod_of_any_shape_gets_a_verdict(case: Case, data: st.DataObject) -> None:
    """A member of a wrong type is refused by its name; nothing crashes, and the input is left as it was."""
    pod = copy.deepcopy(case.pod)
    holder, key = data.draw(st.sampled_from(list(places(pod))))
    holder[key] = data.draw(anything)
    before = copy.deepcopy(pod)
    verdict = case.verdict(pod)
    assert pod == before
    assert verdict.allowed or verdict.message
    answer = json.loads(review.write("uid", verdict))
    assert answer["response"]["allowed"] is verdict.allowed
    if verdict.patch:
        jsonpatch.apply_patch(pod, list(verdict.patch))


def test_entries_without_a_name_are_left_to_the_api_server() -> None:
    """A volume or a variable without a name is no fault of the injector: the pod gets its sidecar beside them."""
    case = next(case for case in CASES if case.verdict(copy.deepcopy(case.pod)).result is Result.INJECTED)
    pod = copy.deepcopy(case.pod)
    pod["spec"]["volumes"] = [{}]
    pod["spec"]["containers"][0]["env"] = [{}]
    assert case.verdict(pod).result is Result.INJECTED


@pytest.mark.parametrize("metadata", [1, {"annotations": 1}])
def test_a_skipped_pod_with_a_wrong_member_is_refused(metadata: Any) -> None:
    """By its name, as one that is injected."""
    verdict = EXCLUDED.verdict({"metadata": metadata, "spec": {}})
    assert (verdict.reason, verdict.result) == ("malformed_pod", Result.REFUSED)


@pytest.mark.parametrize("pod", [{}, {"metadata": None}, {"metadata": {"annotations": None}}])
def test_a_skipped_pod_without_annotations_gets_the_status(pod: dict[str, Any]) -> None:
    """The patch makes what is not there."""
    patched = jsonpatch.apply_patch(pod, list(EXCLUDED.verdict(pod).patch))
    assert patched["metadata"]["annotations"] == {"pdp.dev/status": "skipped: excluded_namespace"}


@given(anything)
def test_any_document_as_a_review_is_malformed(document: Any) -> None:
    """It has no request, and says so."""
    for one in (document, admission_review({}) | {"request": document}):
        try:
            review.read(json.dumps(one).encode())
        except review.MalformedError as error:
            assert str(error)
        else:
            raise AssertionError("it was read")


def changed(pod: dict[str, Any], made: list[tuple[str, Any, bool]]) -> dict[str, Any]:
    pod = copy.deepcopy(pod)
    spec = pod.setdefault("spec", {})
    for name, value, first in made:
        if name == "annotations":
            pod["metadata"]["annotations"] = (pod["metadata"].get("annotations") or {}) | value
        elif name in ("initContainers", "containers", "volumes"):
            items = spec[name] if isinstance(spec.get(name), list) else []
            if value["name"] not in [item["name"] for item in items]:
                spec[name] = [value, *items] if first else [*items, value]
        else:
            spec[name] = value
    return pod


def places(value: Any) -> Any:
    """Every member and item below a value, by what holds it."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, inner in pairs:
        yield value, key
        yield from places(inner)
