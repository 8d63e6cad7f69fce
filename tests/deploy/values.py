"""Values that schemas do not check: enums, quantities, durations, numbers, names.

Every string of an object has its rule here, by the end of its path, or is named as free text; one that has neither is a
problem too, so that no member goes unchecked because nobody thought of it.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

Object = dict[str, Any]
Rule = Callable[[Any], bool]

MAPS = ("labels", "annotations", "matchLabels", "data", "selector")
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
UNITS = {"": 1, "m": Decimal("0.001")} | {
    unit + end: base ** (power + 1)
    for end, base in (("", 1000), ("i", 1024))
    for power, unit in enumerate("KMGTP" if end else "kMGTP")
}
DURATION = re.compile(r"(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?")
IMAGE = re.compile(r"[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|@sha256:[0-9a-f]{64})")
PATH = re.compile(r"(/[A-Za-z0-9._-]+)+")
ADDRESS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PSS = ("privileged", "baseline", "restricted")


def quantity(text: str) -> Decimal:
    """The number that a quantity says; `ValueError` where it is none."""
    match = QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"`{text}` is not a quantity")
    return Decimal(match[1]) * UNITS[match[2] or ""]


def seconds(text: str) -> int:
    """The length of a duration in Go's form; `ValueError` where it is none."""
    match = DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"`{text}` is not a duration")
    hours, minutes, rest = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + rest


def among(*values: str) -> Rule:
    return lambda value: value in values


def whole(low: int, high: int) -> Rule:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def like(pattern: re.Pattern[str], most: int = 253) -> Rule:
    return lambda value: isinstance(value, str) and len(value) <= most and pattern.fullmatch(value) is not None


def parses(read: Callable[[str], object]) -> Rule:
    def holds(value: Any) -> bool:
        try:
            read(value if isinstance(value, str) else str(value))
        except ValueError:
            return False
        return True

    return holds


def free(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def port(value: Any) -> bool:
    return like(PORT_NAME, 15)(value) if isinstance(value, str) else whole(1, 65535)(value)


RULES: dict[str, Rule] = {
    # what an object is: schemas check it
    "apiVersion": free,
    "kind": free,
    "apiGroup": among("rbac.authorization.k8s.io"),
    "metadata.name": like(SUBDOMAIN),
    "metadata.namespace": like(LABEL, 63),
    # references, which `references.py` follows
    "containers.name": like(LABEL, 63),
    "initContainers.name": like(LABEL, 63),
    "env.name": like(ADDRESS),
    "volumes.name": like(LABEL, 63),
    "volumeMounts.name": like(LABEL, 63),
    "configMapRef.name": like(SUBDOMAIN),
    "configMap.name": like(SUBDOMAIN),
    "secretKeyRef.name": like(SUBDOMAIN),
    "secretKeyRef.key": like(re.compile(r"[-._a-zA-Z0-9]+")),
    "secret.secretName": like(SUBDOMAIN),
    "spec.secretName": like(SUBDOMAIN),
    "ca.secretName": like(SUBDOMAIN),
    "claimName": like(SUBDOMAIN),
    "serviceAccountName": like(SUBDOMAIN),
    "priorityClassName": like(SUBDOMAIN),
    "roleRef.name": like(SUBDOMAIN),
    "roleRef.kind": among("Role", "ClusterRole"),
    "subjects.kind": among("ServiceAccount"),
    "subjects.name": like(SUBDOMAIN),
    "subjects.namespace": like(LABEL, 63),
    "policyName": like(SUBDOMAIN),
    "paramRef.name": like(SUBDOMAIN),
    "paramRef.namespace": like(LABEL, 63),
    "issuerRef.name": like(SUBDOMAIN),
    "issuerRef.kind": among("Issuer"),
    "issuerRef.group": among("cert-manager.io"),
    "clientConfig.service.name": like(LABEL, 63),
    "clientConfig.service.namespace": like(LABEL, 63),
    "clientConfig.service.path": like(PATH),
    "clientConfig.service.port": whole(1, 65535),
    # ports
    "ports.name": like(PORT_NAME, 15),
    "ports.port": port,
    "ports.targetPort": port,
    "ports.containerPort": whole(1, 65535),
    "ports.protocol": among("TCP", "UDP", "SCTP"),
    "appProtocol": among("grpc", "https", "http"),
    "httpGet.port": port,
    "httpGet.path": like(PATH),
    "httpGet.scheme": among("HTTP", "HTTPS"),
    "periodSeconds": whole(1, 3600),
    "timeoutSeconds": whole(1, 30),
    "failureThreshold": whole(1, 1000),
    "successThreshold": whole(1, 10),
    # pods
    "image": like(IMAGE, 512),
    "imagePullPolicy": among("Always", "IfNotPresent", "Never"),
    "command": free,
    "args": free,
    "env.value": free,
    "mountPath": like(PATH),
    "defaultMode": whole(0, 0o777),
    "sizeLimit": parses(quantity),
    "medium": among("Memory"),
    "requests.cpu": parses(quantity),
    "requests.memory": parses(quantity),
    "requests.ephemeral-storage": parses(quantity),
    "requests.storage": parses(quantity),
    "limits.cpu": parses(quantity),
    "limits.memory": parses(quantity),
    "limits.ephemeral-storage": parses(quantity),
    "containers.restartPolicy": among("Always"),
    "initContainers.restartPolicy": among("Always"),
    "template.spec.restartPolicy": among("Always", "OnFailure", "Never"),
    "seccompProfile.type": among("RuntimeDefault"),
    "fsGroupChangePolicy": among("OnRootMismatch", "Always"),
    "runAsUser": whole(1, 2**31 - 1),
    "runAsGroup": whole(1, 2**31 - 1),
    "fsGroup": whole(1, 2**31 - 1),
    "capabilities.drop": among("ALL"),
    "topologyKey": like(LABEL_KEY),
    "whenUnsatisfiable": among("DoNotSchedule", "ScheduleAnyway"),
    "maxSkew": whole(1, 10),
    "terminationGracePeriodSeconds": whole(1, 3600),
    "replicas": whole(1, 100),
    "revisionHistoryLimit": whole(0, 100),
    "strategy.type": among("RollingUpdate", "Recreate"),
    "rollingUpdate.maxSurge": whole(0, 100),
    "rollingUpdate.maxUnavailable": whole(0, 100),
    "spec.maxUnavailable": whole(1, 100),
    "backoffLimit": whole(0, 100),
    "activeDeadlineSeconds": whole(1, 86400),
    "ttlSecondsAfterFinished": whole(0, 7 * 86400),
    "accessModes": among("ReadWriteOnce", "ReadWriteOncePod", "ReadOnlyMany", "ReadWriteMany"),
    "value": whole(-(10**9), 10**9),
    "description": free,
    # selectors and network policies
    "matchExpressions.key": like(LABEL_KEY),
    "matchExpressions.operator": among("In", "NotIn", "Exists", "DoesNotExist"),
    "matchExpressions.values": like(LABEL_VALUE, 63),
    "policyTypes": among("Ingress", "Egress"),
    # rights
    "rules.apiGroups": lambda value: value in ("", "pdp.dev"),
    "rules.resources": like(re.compile(r"[a-z]+(/[a-z]+)?")),
    "rules.verbs": among("get", "list", "watch", "create", "update", "patch", "delete", "exec"),
    # admission
    "webhooks.name": like(SUBDOMAIN),
    "admissionReviewVersions": among("v1"),
    "failurePolicy": among("Fail"),
    "reinvocationPolicy": among("Never", "IfNeeded"),
    "matchPolicy": among("Exact", "Equivalent"),
    "sideEffects": among("None", "NoneOnDryRun"),
    "rules.apiVersions": among("v1"),
    "rules.operations": among("CREATE", "UPDATE", "DELETE", "CONNECT"),
    "rules.scope": among("Cluster", "Namespaced", "*"),
    "resourceRules.apiGroups": among(""),
    "resourceRules.apiVersions": among("v1"),
    "resourceRules.resources": like(re.compile(r"[a-z]+(/[a-z]+)?")),
    "resourceRules.operations": among("CREATE", "UPDATE", "DELETE", "CONNECT"),
    "resourceRules.scope": among("Cluster", "Namespaced", "*"),
    "paramKind.apiVersion": among("v1"),
    "paramKind.kind": among("ConfigMap"),
    "parameterNotFoundAction": among("Deny"),
    "validationActions": among("Deny"),
    "variables.name": like(ADDRESS),
    "variables.expression": free,
    "matchConditions.name": like(re.compile(r"[-A-Za-z0-9_.]+"), 63),
    "matchConditions.expression": free,
    "validations.expression": free,
    "validations.message": lambda value: free(value) and "\n" not in value,
    "validations.reason": among("Unauthorized", "Forbidden", "Invalid", "RequestEntityTooLarge"),
    # certificates
    "commonName": free,
    "dnsNames": like(SUBDOMAIN),
    "duration": parses(seconds),
    "renewBefore": parses(seconds),
    "usages": free,
    "privateKey.algorithm": free,
    "privateKey.size": whole(256, 8192),
    "rotationPolicy": free,
    # monitors, and rules of Prometheus, which promtool checks
    "podMetricsEndpoints.port": like(PORT_NAME, 15),
    "endpoints.port": like(PORT_NAME, 15),
    "podMetricsEndpoints.path": like(PATH),
    "endpoints.path": like(PATH),
    "podMetricsEndpoints.scheme": among("http", "https"),
    "tlsConfig.serverName": like(SUBDOMAIN),
    "ca.secret.name": like(SUBDOMAIN),
    "ca.secret.key": like(re.compile(r"[-._a-zA-Z0-9]+")),
    "groups.name": free,
    "rules.record": like(re.compile(r"[a-z][a-z0-9_:]*")),
    "rules.alert": like(re.compile(r"[A-Z][A-Za-z]*")),
    "rules.expr": free,
    "rules.for": parses(seconds),
}
LONGEST = max(key.count(".") for key in RULES) + 1


def problems(each: Object) -> Iterator[str]:
    """What is wrong with the values of an object, with their paths."""
    yield from _values(each, ())
    yield from _maps(each, ())
    yield from _resources(each)
    spec = each.get("spec", {})
    if each["kind"] == "Certificate":
        yield from _renewal(spec["renewBefore"], spec["duration"])
    if each["kind"] == "Deployment" and spec["template"]["spec"].get("restartPolicy", "Always") != "Always":
        yield "spec.template.spec.restartPolicy: a Deployment restarts always"
    if each["kind"] == "Job" and spec["template"]["spec"].get("restartPolicy", "Always") == "Always":
        yield "spec.template.spec.restartPolicy: a Job does not restart always"


def _renewal(before: str, duration: str) -> Iterator[str]:
    with suppress(ValueError):  # the rules of the two values name what is no duration
        if seconds(before) >= seconds(duration):
            yield "spec.renewBefore: is not shorter than spec.duration"


def _values(value: Any, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(value, dict):
        for key, member in value.items():
            if key not in MAPS or not isinstance(member, dict) or "matchLabels" in member:
                yield from _values(member, (*path, key))
    elif isinstance(value, list):
        for item in value:
            yield from _values(item, path)
    elif not isinstance(value, bool):
        rule = _rule(path)
        where = ".".join(path)
        if rule is None:
            yield f"{where}: no rule says what `{value}` may be"
        elif not rule(value):
            yield f"{where}: `{value}` is not what it may be"


def _rule(path: tuple[str, ...]) -> Rule | None:
    for length in range(LONGEST, 0, -1):
        rule = RULES.get(".".join(path[-length:]))
        if rule is not None:
            return rule
    return None


def _maps(value: Any, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _maps(item, path)
    if not isinstance(value, dict):
        return
    for key, member in value.items():
        where = ".".join((*path, key))
        if key in ("labels", "matchLabels") or (key == "selector" and "matchLabels" not in member):
            yield from _labels(member, where)
        elif key == "annotations":
            yield from (f"{where}: `{name}` is not a name" for name in member if not LABEL_KEY.fullmatch(name))
            yield from (f"{where}.{name}: not a string" for name, text in member.items() if not isinstance(text, str))
        else:
            yield from _maps(member, (*path, key))


def _labels(labels: Object, where: str) -> Iterator[str]:
    for name, value in labels.items():
        if not LABEL_KEY.fullmatch(name):
            yield f"{where}: `{name}` is not a name"
        if not isinstance(value, str) or not LABEL_VALUE.fullmatch(value):
            yield f"{where}.{name}: `{value}` is not a label's value"
        is_level = name.startswith("pod-security.kubernetes.io/") and not name.endswith("-version")
        if is_level and value not in PSS:
            yield f"{where}.{name}: `{value}` is not one of {', '.join(PSS)}"


def _resources(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _resources(item)
    if not isinstance(value, dict):
        return
    found = value.get("resources")
    if isinstance(found, dict):
        for name, least in found.get("requests", {}).items():
            most = found.get("limits", {}).get(name)
            try:
                if most is not None and quantity(str(least)) > quantity(str(most)):
                    yield f"resources.requests.{name}: `{least}` is above the limit `{most}`"
            except ValueError:
                continue  # the rule of the value names it
    for member in value.values():
        yield from _resources(member)
