"""What the author of a pod may set, by annotation and label."""

from collections.abc import Callable
from dataclasses import dataclass

from pdp.core.action import AGENT_ID
from pdp.core.errors import Problems
from pdp.core.fields import quote
from pdp.injector import quantities
from pdp.injector.pods import Object, member, texts
from pdp.injector.settings import MIN_CPU_MILLIS, MIN_MEMORY_BYTES, Resources, SidecarSettings
from pdp.injector.verdicts import Refusal, RefusedError
from pdp.serving.logs import LEVELS

PREFIX = "pdp.dev/"
INJECT = "pdp.dev/inject"
ALLOW_OPT_OUT = "pdp.dev/allow-opt-out"
STATUS = "pdp.dev/status"
AGENT = "pdp.dev/agent-id"
LOG_LEVEL = "pdp.dev/log-level"
CPU = "pdp.dev/cpu"
MEMORY = "pdp.dev/memory"
METRICS_PORT = "pdp.dev/metrics-port"
DRAIN = "pdp.dev/drain-seconds"
KNOWN = (AGENT, CPU, DRAIN, LOG_LEVEL, MEMORY, METRICS_PORT)
DEFAULT_METRICS_PORT = 9181
MIN_PORT, MAX_PORT = 1024, 65535
DEFAULT_DRAIN_SECONDS = 10
DEFAULT_GRACE_SECONDS = 30
MAX_DRAIN_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Wishes:
    """What one pod asks of its sidecar, within the administrator's bounds."""

    agent_id: str
    resources: Resources
    log_level: str = "info"
    metrics_port: int = DEFAULT_METRICS_PORT
    drain_seconds: int = DEFAULT_DRAIN_SECONDS


def read_wishes(pod: Object, settings: SidecarSettings) -> Wishes:
    """The wishes in a pod's annotations; `RefusedError` names the annotation that is wrong."""
    given = texts(member(pod, "metadata"), "annotations")
    for name in given:
        if name.startswith(PREFIX) and name not in KNOWN and name != STATUS:
            raise RefusedError(
                Refusal.ANNOTATION_UNKNOWN,
                f"annotation {quote(name)}: unknown; a pod may set {', '.join(KNOWN)}",
            )
    grace = _grace_seconds(pod)
    most = settings.resources_max
    cpu = _quantity(given, CPU, settings.resources.cpu, (MIN_CPU_MILLIS, most.cpu), _CPU)
    memory = _quantity(given, MEMORY, settings.resources.memory, (MIN_MEMORY_BYTES, most.memory), _MEMORY)
    return Wishes(
        agent_id=_agent_id(given),
        resources=Resources(cpu, memory),
        log_level=_log_level(given),
        metrics_port=_whole(given, METRICS_PORT, DEFAULT_METRICS_PORT, MIN_PORT, MAX_PORT),
        drain_seconds=_whole(given, DRAIN, min(DEFAULT_DRAIN_SECONDS, grace // 2), 0, min(MAX_DRAIN_SECONDS, grace)),
    )


def asks_to_opt_out(pod: Object) -> bool:
    """Whether the pod's own label asks for no sidecar; `RefusedError` where it says something else than it may."""
    value = texts(member(pod, "metadata"), "labels").get(INJECT)
    if value not in (None, "enabled", "disabled"):
        raise RefusedError(Refusal.LABEL_INVALID, f"label `{INJECT}`: {quote(value)} is not one of enabled, disabled")
    return value == "disabled"


_Form = tuple[Callable[[str], int], Callable[[int], str]]
_CPU: _Form = (quantities.read_cpu, quantities.write_cpu)
_MEMORY: _Form = (quantities.read_memory, quantities.write_memory)


def _agent_id(given: dict[str, str]) -> str:
    if AGENT not in given:
        raise RefusedError(Refusal.AGENT_ID_MISSING, f"annotation `{AGENT}`: is required in this namespace")
    problems = Problems()
    AGENT_ID.read(given[AGENT], "", problems)
    if problems:
        raise _invalid(AGENT, str(next(iter(problems))))
    return given[AGENT]


def _log_level(given: dict[str, str]) -> str:
    level = given.get(LOG_LEVEL, "info")
    if level not in LEVELS:
        raise _invalid(LOG_LEVEL, f"{quote(level)} is not one of {', '.join(LEVELS)}")
    return level


def _quantity(given: dict[str, str], name: str, default: int, bounds: tuple[int, int], form: _Form) -> int:
    if name not in given:
        return default
    read, write = form
    try:
        found = read(given[name])
    except ValueError as error:
        raise _invalid(name, f"{quote(given[name])} {error}") from error
    low, high = bounds
    if not low <= found <= high:
        raise _invalid(name, f"{quote(given[name])} is not within {write(low)} to {write(high)}")
    return found


def _whole(given: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    value = given.get(name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) <= 6 and low <= int(value) <= high):
        raise _invalid(name, f"{quote(value)} is not a whole number from {low} to {high}")
    return int(value)


def _grace_seconds(pod: Object) -> int:
    found = member(pod, "spec").get("terminationGracePeriodSeconds")
    if found is None:
        return DEFAULT_GRACE_SECONDS
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise RefusedError(
            Refusal.MALFORMED_POD, f"`terminationGracePeriodSeconds`: {quote(found)} is not a whole number"
        )
    return found


def _invalid(name: str, message: str) -> RefusedError:
    return RefusedError(Refusal.ANNOTATION_INVALID, f"annotation `{name}`: {message}")
