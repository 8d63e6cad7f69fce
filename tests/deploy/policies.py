"""ValidatingAdmissionPolicies as the API server evaluates them, by an implementation of CEL: an error is a refusal.

What the API server sees is typed: an empty list or map that a pod's author wrote is not there, and neither is a null.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext.ext_strings import ExtStrings

from tests.deploy.building import Object, build, one
from tests.deploy.references import selects

ANY = cel.Type.DYN
CHECK = cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
NAMES = ("object", "oldObject", "namespaceObject", "params", "request", "variables")
POLICIES = ("pdp-new-pods", "pdp-changed-pods", "pdp-commands", "pdp-namespaces")


def enrolled(name: str = "agents", **annotations: str) -> Object:
    """A namespace with the label."""
    labels = {"kubernetes.io/metadata.name": name, "pdp.dev/inject": "enabled"}
    return {"metadata": {"name": name, "labels": labels, "annotations": annotations}}


@dataclass(frozen=True)
class Request:
    """One request to the API server; `rights` are the `(resource, verb)` of `pdp.dev` that its user has."""

    operation: str
    resource: str
    object: Object | None
    old: Object | None = None
    subresource: str = ""
    namespace: Object = field(default_factory=enrolled)
    rights: frozenset[tuple[str, str]] = frozenset()

    @property
    def path(self) -> str:
        """How a rule names what is asked for: `pods/exec`."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


def refusals(request: Request, parameters: Object | None = None) -> list[str]:
    """The messages of every validation that refuses a request; none: it is admitted."""
    objects = build("production")
    found = []
    for name in POLICIES:
        policy = one(objects, "ValidatingAdmissionPolicy", name)
        if matches(policy, request):
            found += Evaluation(policy, request, parameters or settings()).refusals()
    return found


def settings() -> Object:
    """What the policies are told of the sidecar."""
    data: Object = one(build("production"), "ConfigMap", "pdp-sidecar-policy")["data"]
    return data


def matches(policy: Object, request: Request) -> bool:
    """Whether the constraints of a policy select a request."""
    constraints = policy["spec"]["matchConstraints"]
    selector = constraints.get("namespaceSelector", {})
    return selects(selector, request.namespace["metadata"]["labels"]) and any(
        request.path in rule["resources"] and request.operation in rule["operations"]
        for rule in constraints["resourceRules"]
    )


class Evaluation:
    """One policy over one request."""

    def __init__(self, policy: Object, request: Request, parameters: Object) -> None:
        self.spec = policy["spec"]
        metadata = (request.object or {}).get("metadata") or {}
        self.data: Object = {
            "object": typed(request.object),
            "oldObject": typed(request.old),
            "namespaceObject": typed(request.namespace),
            "params": {"data": parameters},
            "request": {
                "operation": request.operation,
                "namespace": request.namespace["metadata"]["name"],
                # The API server has not made up the name of a generateName yet.
                **({"name": metadata["name"]} if "name" in metadata else {}),
            },
            "authorizer": {"rights": sorted(map(list, request.rights))},
            "variables": {},
        }

    def refusals(self) -> list[str]:
        """The messages of the validations that do not hold."""
        namespace, self.data["namespaceObject"] = self.data["namespaceObject"], None  # match conditions do not know it
        conditions = [self.evaluate(one["expression"]) for one in self.spec.get("matchConditions", [])]
        self.data["namespaceObject"] = namespace
        if False in conditions:
            return []
        if not all(value is True for value in conditions):
            return ["a match condition has no value"]
        for variable in self.spec.get("variables", []):
            value = self.evaluate(variable["expression"])
            if value is not None:  # what uses a variable without a value has none either
                self.data["variables"][variable["name"]] = value
        return [one["message"] for one in self.spec["validations"] if self.evaluate(one["expression"]) is not True]

    def evaluate(self, expression: str) -> Any:
        """The value of an expression; None for an error."""
        value = compiled(expression).eval(data=self.data)
        return None if value.type() == cel.Type.ERROR else value.plain_value()


def typed(value: Any) -> Any:
    """A value without nulls and without empty lists and maps, except an empty object that chooses (`emptyDir: {}`)."""
    if isinstance(value, dict):
        members = {name: typed(member) for name, member in value.items()}
        return {name: member for name, member in members.items() if member is not None and member != []}
    return [typed(item) for item in value] if isinstance(value, list) else value


@cache
def compiled(expression: str) -> cel.Expression:
    """An expression in the environment of the API server, as far as the policies use it."""
    return environment().compile(expression)


@cache
def environment() -> cel.Env:
    """CEL's standard, its strings, and the authorizer."""
    text = cel.Type.STRING

    def step(name: str) -> cel.FunctionDecl:
        overload = cel.Overload(f"check_{name}", CHECK, [CHECK, text], True, lambda check, value: check | {name: value})
        return cel.FunctionDecl(name, [overload])

    allowed = cel.Overload("check_allowed", cel.Type.BOOL, [CHECK], True, is_allowed)
    functions = [step(name) for name in ("group", "resource", "namespace", "name", "check")]
    return cel.NewEnv(
        variables=dict.fromkeys(NAMES, ANY) | {"authorizer": CHECK},
        extensions=[ExtStrings()],
        functions=[*functions, cel.FunctionDecl("allowed", [allowed])],
    )


def is_allowed(check: Object) -> bool:
    """Whether the user has the right that is asked for."""
    return check["group"] == "pdp.dev" and [check["resource"], check["check"]] in check["rights"]
