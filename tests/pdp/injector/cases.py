"""Golden files: each a pod, what it is judged by, and the verdict with its patch.

`python -m tests.pdp.injector.cases` writes the verdicts anew; the difference is what there is to review.
"""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pdp.injector import claims, review
from pdp.injector.patch import Namespace
from pdp.injector.settings import Settings
from pdp.injector.verdicts import Verdict

FOLDER = Path(__file__).parent / "golden"
SETTINGS = {
    "listen": "127.0.0.1:0",
    "tls_cert": Path("tls.crt"),
    "tls_key": Path("tls.key"),
    "image": "registry.example/pdp:1.0.0",
    "store": "registry-store.pdp-system.svc:50052",
    "key_secret": "pdp-sidecar-key",
    "store_ca_secret": "pdp-store-ca",
}
VERDICT = ("result", "reason", "message", "patch")


@dataclass(frozen=True)
class Case:
    """One golden file; `given` is its document."""

    name: str
    given: dict[str, Any]

    @property
    def pod(self) -> dict[str, Any]:
        """The pod that is judged."""
        pod: dict[str, Any] = self.given["pod"]
        return pod

    def request(self) -> dict[str, Any]:
        """The AdmissionReview that asks."""
        updates = "old" in self.given
        return admission_review(
            self.pod,
            old=self.given.get("old"),
            namespace=self.given.get("namespace", {}).get("name", "agents"),
            subresource=self.given.get("subresource", "") if updates else "",
        )

    def verdict(self, pod: dict[str, Any] | None = None) -> Verdict:
        """The verdict on the pod, or on another in its place."""
        settings = Settings.from_text(**SETTINGS | self.given.get("settings", {}))
        agents = None if "agents" not in self.given else claims.parse(yaml.safe_dump(self.given["agents"]).encode())
        asked = review.read(json.dumps(self.request()).encode())
        if pod is not None:
            asked = asked._replace(pod=pod)
        namespace = Namespace(**{"name": "agents"} | self.given.get("namespace", {}))
        return review.judge(asked, namespace, settings.sidecar, agents, native=self.given.get("native", True))


def admission_review(
    pod: Any, *, old: Any = None, namespace: str = "agents", subresource: str = "", dry_run: bool = False
) -> dict[str, Any]:
    """An AdmissionReview as the API server sends it; with `old` for an update."""
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    resource = {"group": "", "version": "v1", "resource": "pods"}
    metadata = pod.get("metadata") if isinstance(pod, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": kind,
        "resource": resource,
        "requestKind": kind,
        "requestResource": resource,
        "namespace": namespace,
        "operation": "CREATE" if old is None else "UPDATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller", "groups": []},
        "object": pod,
        "oldObject": old,
        "dryRun": dry_run,
        "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
    }
    request |= ({"name": name} if name else {}) | ({"subResource": subresource} if subresource else {})
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}


def patch_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The patch in the answer to a review; empty where there is none."""
    found: list[dict[str, Any]] = json.loads(base64.b64decode(answer["response"].get("patch", "W10=")))
    return found


def load() -> list[Case]:
    """Every golden file."""
    return [Case(path.stem, yaml.safe_load(path.read_text())) for path in sorted(FOLDER.glob("*.yaml"))]


def document(verdict: Verdict) -> dict[str, Any]:
    """The verdict as a golden file holds it."""
    found = {
        "result": verdict.result.value,
        "reason": verdict.reason,
        "message": verdict.message,
        "patch": json.loads(json.dumps(verdict.patch)),
    }
    return {name: value for name, value in found.items() if value}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """Writes a repeated value out."""
        return True


def _rewrite() -> None:
    for case in load():
        given = {name: value for name, value in case.given.items() if name not in VERDICT}
        text = yaml.dump(
            given | document(case.verdict()), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120
        )
        (FOLDER / f"{case.name}.yaml").write_text(text)


if __name__ == "__main__":
    _rewrite()
