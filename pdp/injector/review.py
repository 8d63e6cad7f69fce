"""AdmissionReview v1: reading a request, judging it, writing the answer."""

import base64
import json
from typing import Any, NamedTuple

from pdp.core.fields import quote
from pdp.core.json import strict_json
from pdp.injector.annotations import asks_to_opt_out
from pdp.injector.claims import Claims
from pdp.injector.guard import guard
from pdp.injector.patch import Namespace, inject
from pdp.injector.pods import Object
from pdp.injector.settings import SidecarSettings
from pdp.injector.verdicts import Refusal, RefusedError, Verdict, refused

API_VERSION = "admission.k8s.io/v1"
KIND = "AdmissionReview"
MAX_UID_CHARACTERS = 128
MAX_NAME_CHARACTERS = 253
GUARDED = ("", "ephemeralcontainers", "resize")
"""Subresources of a pod whose updates are judged."""


class MalformedError(ValueError):
    """The body is not an AdmissionReview with a request; the text says why."""


class Review(NamedTuple):
    """A request of the API server. `pod` and `old` are None where it sent none."""

    uid: str
    operation: str
    resource: str
    subresource: str
    namespace: str
    pod: Object | None
    old: Object | None
    dry_run: bool

    @property
    def creates_pod(self) -> bool:
        """Whether a pod is to be made."""
        return (self.resource, self.subresource, self.operation) == ("pods", "", "CREATE")

    @property
    def updates_pod(self) -> bool:
        """Whether a pod is to be changed, by itself or by one of the guarded subresources."""
        return self.resource == "pods" and self.subresource in GUARDED and self.operation == "UPDATE"

    @property
    def asks_to_opt_out(self) -> bool:
        """Whether the verdict depends on what its namespace allows."""
        try:
            return self.creates_pod and self.pod is not None and asks_to_opt_out(self.pod)
        except RefusedError:
            return False  # it is refused whatever the namespace allows


def read(raw: bytes) -> Review:
    """The request in a body; `MalformedError` if there is none."""
    try:
        document = strict_json.loads(raw)
    except ValueError as error:
        raise MalformedError(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict) or (document.get("apiVersion"), document.get("kind")) != (API_VERSION, KIND):
        raise MalformedError(f"the body is not an {KIND} of {API_VERSION}")
    request = document.get("request")
    if not isinstance(request, dict):
        raise MalformedError("`request`: is required")
    resource = _object(request, "resource")
    group = _text(resource, "group", required=False)
    kind = _text(resource, "resource")
    return Review(
        uid=_text(request, "uid", MAX_UID_CHARACTERS),
        operation=_text(request, "operation"),
        resource=f"{group}/{kind}" if group else kind,
        subresource=_text(request, "subResource", required=False),
        namespace=_text(request, "namespace", required=False),
        pod=_optional_object(request, "object"),
        old=_optional_object(request, "oldObject"),
        dry_run=request.get("dryRun") is True,
    )


def judge(
    review: Review, namespace: Namespace, settings: SidecarSettings, claims: Claims | None, *, native: bool
) -> Verdict:
    """The verdict on a request."""
    if review.creates_pod and review.pod is not None and namespace.name:
        return inject(review.pod, namespace, settings, claims, native=native)
    if review.updates_pod and review.pod is not None and review.old is not None:
        return guard(review.old, review.pod, settings)
    what = f"{review.operation} of {'/'.join(filter(None, (review.resource, review.subresource)))}"
    return refused(
        RefusedError(Refusal.UNEXPECTED_REVIEW, f"the injector does not judge {quote(what)}, or the pod is missing")
    )


def write(uid: str, verdict: Verdict) -> bytes:
    """The AdmissionReview that answers."""
    response: dict[str, Any] = {"uid": uid, "allowed": verdict.allowed}
    if verdict.patch:
        patch = json.dumps(verdict.patch, separators=(",", ":")).encode()
        response |= {"patchType": "JSONPatch", "patch": base64.b64encode(patch).decode()}
    if not verdict.allowed:
        code = 500 if verdict.reason == Refusal.INTERNAL_ERROR else 403
        response["status"] = {"code": code, "message": verdict.message}
    response["auditAnnotations"] = {"result": verdict.result.value} | (
        {"reason": verdict.reason} if verdict.reason else {}
    )
    return json.dumps({"apiVersion": API_VERSION, "kind": KIND, "response": response}).encode()


def _object(request: Object, name: str) -> Object:
    found = _optional_object(request, name)
    if found is None:
        raise MalformedError(f"`request.{name}`: is required")
    return found


def _optional_object(request: Object, name: str) -> Object | None:
    found = request.get(name)
    if found is not None and not isinstance(found, dict):
        raise MalformedError(f"`request.{name}`: {quote(found)} is not an object")
    return found


def _text(value: Object, name: str, longest: int = MAX_NAME_CHARACTERS, *, required: bool = True) -> str:
    found = value.get(name)
    if found is None and not required:
        return ""
    if not isinstance(found, str) or len(found) > longest or (required and not found):
        raise MalformedError(f"`{name}`: {quote(found)} is not a string of at most {longest} characters")
    return found
