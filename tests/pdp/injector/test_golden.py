"""Pods as the API server sends them, and what the injector makes of them: `golden/*.yaml`."""

from typing import Any

import jsonpatch
import pytest

from pdp.injector.verdicts import Refusal, Result, Skip
from tests.pdp.injector import schemas
from tests.pdp.injector.api_server import defaulted
from tests.pdp.injector.cases import Case, document, load
from tests.pdp.injector.kept import lost

CASES = load()
PATCHED = [case for case in CASES if case.given.get("patch")]
NEW = [
    case for case in CASES if case.given["result"] in (Result.INJECTED, Result.UNCHANGED) and "old" not in case.given
]
HAVE_OTHER_TESTS = {Refusal.INTERNAL_ERROR, Refusal.UNEXPECTED_REVIEW}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_verdict_is_as_the_file_says(case: Case) -> None:
    """What the file states holds: the result, the reason, the message that people see, and the patch."""
    expected = {name: case.given[name] for name in ("result", "reason", "message", "patch") if name in case.given}
    assert document(case.verdict()) == expected


@pytest.mark.parametrize("version", schemas.VERSIONS)
def test_every_patched_pod_is_valid(version: str) -> None:
    """In each version of Kubernetes, strictly."""
    assert {case.name: schemas.problem(patched(case), version) for case in PATCHED} == {
        case.name: None for case in PATCHED
    }


def test_a_wrong_pod_is_not_valid() -> None:
    """The check of the tests above sees an unknown member and a wrong type."""
    pod = patched(next(case for case in CASES if case.name == "plain"))
    pod["spec"]["initContainers"][0]["restartPolice"] = "Always"
    assert schemas.problem(pod) is not None
    del pod["spec"]["initContainers"][0]["restartPolice"]
    assert schemas.problem(pod) is None
    pod["spec"]["initContainers"][0]["ports"][0]["containerPort"] = "9181"
    assert schemas.problem(pod) is not None


@pytest.mark.parametrize("case", NEW, ids=lambda case: case.name)
def test_a_second_call_changes_nothing(case: Case) -> None:
    """Neither at once, nor after the API server has filled in its defaults."""
    pod = patched(case)
    assert case.verdict(pod).result is Result.UNCHANGED
    assert case.verdict(defaulted(pod)).result is Result.UNCHANGED


@pytest.mark.parametrize("case", NEW, ids=lambda case: case.name)
def test_what_was_there_is_kept(case: Case) -> None:
    """Every member, and every item in its order."""
    assert list(lost(case.pod, patched(case))) == []


def test_what_is_lost_is_found() -> None:
    """The check of the test above sees a changed value, a missing item and another order."""
    pod = {"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b"}]}}
    assert list(lost(pod, {"spec": {"containers": [{"name": "a", "image": "y"}, {"name": "b"}]}}))
    assert list(lost(pod, {"spec": {"containers": [{"name": "b"}]}}))
    assert list(lost(pod, {"spec": {"containers": [{"name": "b"}, {"name": "a", "image": "x"}]}}))
    assert not list(lost(pod, {"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "c"}, {"name": "b"}]}}))


def test_every_reason_has_a_file() -> None:
    """No reason of a skip or a refusal is left untested."""
    seen = {case.given["reason"] for case in CASES if "reason" in case.given}
    assert seen == {reason.value for reason in (*Skip, *Refusal) if reason not in HAVE_OTHER_TESTS}


@pytest.mark.parametrize("case", NEW, ids=lambda case: case.name)
def test_the_sidecar_is_first_and_passes_the_restricted_standard(case: Case) -> None:
    """Pod Security Standards, restricted; no token of the service account; the agents' mounts are read-only."""
    spec = defaulted(patched(case))["spec"]
    sidecar = spec["initContainers" if case.given.get("native", True) else "containers"][0]
    assert sidecar["name"] == "pdp-sidecar"
    assert "lifecycle" not in sidecar
    security = sidecar["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["readOnlyRootFilesystem"] is True
    assert [mount["name"] for mount in sidecar["volumeMounts"] if "serviceaccount" in mount["mountPath"]] == [
        "pdp-no-token"
    ]
    for other in (*(spec.get("initContainers") or []), *spec["containers"]):
        if other is not sidecar:
            assert {"name": "pdp-socket", "mountPath": "/var/run/pdp", "readOnly": True} in other["volumeMounts"]
            assert {"PDP_ADDRESS", "PDP_HTTP_ADDRESS", "PDP_FAIL_MODE"} <= {each["name"] for each in other["env"]}


def patched(case: Case) -> Any:
    """The pod with the file's patch applied, by a library that knows nothing of ours."""
    return jsonpatch.apply_patch(case.pod, case.given.get("patch", []))
