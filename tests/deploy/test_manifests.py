"""Every build of `deploy/k8s`: the schemas of every version, values, references, security."""

import json
import re
from collections.abc import Iterable

import pytest

from tests.deploy import references, schemas, security, values
from tests.deploy.building import BUILDS, ROOT, Object, build, one, pod_template, title

OLD = [name for name in BUILDS if name.endswith("before-1.30")]
CURRENT = [name for name in BUILDS if name not in OLD]


def distinct(names: Iterable[str]) -> list[Object]:
    """The objects of these builds, each once: the most are the same in several."""
    return list({json.dumps(each): each for name in names for each in build(name)}.values())


@pytest.mark.parametrize("version", schemas.versions("1.30"))
def test_each_object_fits_the_strict_schema(version: str) -> None:
    """Of each version from 1.30 on; a member that a version does not know is a problem."""
    assert [
        f"{title(each)}: {problem}" for each in distinct(BUILDS) for problem in schemas.problems(each, version)
    ] == []


@pytest.mark.parametrize("version", schemas.versions("1.25", "1.29"))
def test_with_the_component_each_object_fits_older_schemas(version: str) -> None:
    """Before 1.30, where the component takes out what those versions do not have."""
    assert [
        f"{title(each)}: {problem}"
        for each in distinct((*OLD, "example"))
        for problem in schemas.problems(each, version)
    ] == []


@pytest.mark.parametrize("name", BUILDS)
def test_each_value_is_one_that_kubernetes_takes(name: str) -> None:
    """Enums, quantities, durations, numbers and names, of which the schemas know nothing."""
    assert [f"{title(each)}: {problem}" for each in build(name) for problem in values.problems(each)] == []


@pytest.mark.parametrize("name", BUILDS)
def test_each_reference_leads_somewhere(name: str) -> None:
    """To an object of the same build, or to a Secret that the documentation says to make."""
    beside = build("production") if name.startswith(("revision", "example", "monitoring")) else []
    assert list(references.problems(build(name), beside)) == []


@pytest.mark.parametrize("name", BUILDS)
def test_each_pod_is_restricted(name: str) -> None:
    """By the restricted pod security standard and more; and no secret is in a manifest."""
    assert [f"{title(each)}: {problem}" for each in build(name) for problem in security.problems(each)] == []


@pytest.mark.parametrize("name", [name for name in BUILDS if name not in ("example", "monitoring")])
def test_the_injector_starts_while_no_injector_runs(name: str) -> None:
    """Neither the webhook nor a policy looks at the pods of our namespace, also where somebody enrols it."""
    objects = build(name)
    webhooks = [each for each in objects if each["kind"] == "MutatingWebhookConfiguration"]
    selectors = [webhook["namespaceSelector"] for each in webhooks for webhook in each["webhooks"]]
    policies = [each["spec"]["matchConstraints"] for each in objects if each["kind"] == "ValidatingAdmissionPolicy"]
    selectors += [constraints["namespaceSelector"] for constraints in policies if _is_of_pods(constraints)]
    used = {each["metadata"]["namespace"] for each in objects if pod_template(each)}
    assert selectors
    assert used == {"pdp-system"}
    for namespace in (*used, "kube-system", "cert-manager"):
        for revision in ({}, {"pdp.dev/revision": "next"}):
            enrolled = {"kubernetes.io/metadata.name": namespace, "pdp.dev/inject": "enabled"} | revision
            assert not any(references.selects(selector, enrolled) for selector in selectors)
    elsewhere = {"kubernetes.io/metadata.name": "agents", "pdp.dev/inject": "enabled"}
    revision = {"pdp.dev/revision": "next"} if name.startswith("revision") else {}
    assert all(references.selects(selector, elsewhere | revision) for selector in selectors)


def _is_of_pods(constraints: Object) -> bool:
    return any(resource.startswith("pods") for rule in constraints["resourceRules"] for resource in rule["resources"])


@pytest.mark.parametrize("name", [name for name in BUILDS if name != "example"])
def test_an_enrolled_namespace_fails_closed(name: str) -> None:
    """The webhook refuses where it cannot answer, sees what later webhooks add, and is asked in time."""
    for each in build(name):
        for webhook in each.get("webhooks", []):
            assert webhook["failurePolicy"] == "Fail"
            assert webhook["reinvocationPolicy"] == "IfNeeded"
            assert webhook["sideEffects"] == "NoneOnDryRun"
            assert webhook["timeoutSeconds"] <= 10
            assert "objectSelector" not in webhook
            asked = {
                (operation, of)
                for rule in webhook["rules"]
                for operation in rule["operations"]
                for of in rule["resources"]
            }
            updates = {("UPDATE", "pods"), ("UPDATE", "pods/ephemeralcontainers")} if name in OLD else set()
            assert asked == {("CREATE", "pods")} | updates


def test_the_injector_has_the_rights_of_its_page_and_no_more() -> None:
    """The store has none at all."""
    page = (ROOT / "docs" / "reference" / "injector.md").read_text()
    stated = {(verb, of) for verb, of in re.findall(r"^\| `(\w+)` of `(\w+)` \|", page, re.MULTILINE)}
    objects = build("production")
    rules = one(objects, "ClusterRole", "pdp-injector")["rules"]
    assert {(verb, of) for rule in rules for verb in rule["verbs"] for of in rule["resources"]} == stated
    bound = [each for each in objects if each["kind"].endswith("Binding") and "subjects" in each]
    assert [subject["name"] for each in bound for subject in each["subjects"]] == ["pdp-injector"]
