"""Traces of a program with `--traces`: the extra `otel` and the environment variables, checked at the start."""

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pdp.serving.addresses import Address, in_clear

if TYPE_CHECKING:
    from pdp.serving.monitoring.tracing import Tracing

ENDPOINT = "http://localhost:4317"
MAX_SHOWN = 80
"""Maximum number of characters of a wrong value in a message."""
CHOICES = {
    "OTEL_TRACES_EXPORTER": ("otlp",),
    "OTEL_EXPORTER_OTLP_PROTOCOL": ("grpc",),
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": ("grpc",),
    "OTEL_EXPORTER_OTLP_COMPRESSION": ("none", "gzip"),
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": ("none", "gzip"),
    "OTEL_TRACES_SAMPLER": (
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    ),
}
NUMBERS = {
    "OTEL_TRACES_SAMPLER_ARG": (0, 1),
    "OTEL_EXPORTER_OTLP_TIMEOUT": (1, 60),
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": (1, 60),
}
WHOLE_NUMBERS = {
    "OTEL_BSP_SCHEDULE_DELAY": (10, 60_000),
    "OTEL_BSP_MAX_QUEUE_SIZE": (1, 65_536),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": (1, 8192),
}
DEFAULT_QUEUE, DEFAULT_BATCH = "2048", "512"
ENDPOINT_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", ENDPOINT_VARIABLE)
FILES = tuple(
    f"OTEL_EXPORTER_OTLP_{signal}{name}"
    for signal in ("", "TRACES_")
    for name in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
)


class TraceError(ValueError):
    """There can be no traces; the text is one line that follows the name of the flag."""


@asynccontextmanager
async def running(program: str, *, plaintext: bool, drain_seconds: float) -> "AsyncIterator[Tracing]":
    """Traces of a program until the block is left, when what waits is sent; `TraceError` if there can be none."""
    try:
        from pdp.serving.monitoring.tracing import Tracing
    except ModuleNotFoundError as error:
        raise TraceError("requires OpenTelemetry: install `agent-pdp[otel]`") from error
    check(os.environ, plaintext=plaintext)
    try:
        tracing = Tracing(program)
    except ValueError as error:
        raise TraceError(str(error)) from error
    try:
        yield tracing
    finally:
        await tracing.close(drain_seconds)


@asynccontextmanager
async def running_if(
    asked_for: bool, program: str, *, plaintext: bool, drain_seconds: float, error_of: Callable[[str], Exception]
) -> "AsyncIterator[Tracing | None]":
    """As `running` if `asked_for`, else None.

    Where there can be no traces, what `error_of` makes of the reason is raised.
    """
    if not asked_for:
        yield None
        return
    async with AsyncExitStack() as stack:
        try:
            tracing = await stack.enter_async_context(
                running(program, plaintext=plaintext, drain_seconds=drain_seconds)
            )
        except TraceError as error:
            raise error_of(str(error)) from error
        yield tracing


def check(environment: Mapping[str, str], *, plaintext: bool) -> None:
    """Raise `TraceError` for the first variable that is wrong; what they mean is the SDK's.

    `plaintext`: a mesh encrypts, so that headers, which may hold a key, may be sent in clear beyond this host.
    """
    given = {name: value for name, value in environment.items() if name.startswith("OTEL_")}
    for name, choices in CHOICES.items():
        if name in given and given[name] not in choices:
            raise _wrong(name, given[name], f"is not one of {', '.join(choices)}")
    for name, (low, high) in NUMBERS.items():
        if name in given and not low <= _number(given[name]) <= high:
            raise _wrong(name, given[name], f"is not a number from {low} to {high}")
    for name, (low, high) in WHOLE_NUMBERS.items():
        if name in given and not (given[name].isdecimal() and low <= _number(given[name]) <= high):
            raise _wrong(name, given[name], f"is not a whole number from {low} to {high}")
    _check_batch(given)
    for name in FILES:
        if name in given:
            _check_file(name, given[name])
    _check_endpoint(given, plaintext)


def _check_batch(given: Mapping[str, str]) -> None:
    """A batch fits into the queue."""
    queue = given.get("OTEL_BSP_MAX_QUEUE_SIZE", DEFAULT_QUEUE)
    batch = given.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", DEFAULT_BATCH)
    if int(batch) > int(queue):
        raise _wrong("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", batch, f"is more than OTEL_BSP_MAX_QUEUE_SIZE, {queue}")


def _check_file(name: str, value: str) -> None:
    try:
        with Path(value).open("rb"):
            pass
    except (OSError, ValueError) as error:
        raise _wrong(name, value, f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _check_endpoint(given: Mapping[str, str], plaintext: bool) -> None:
    """The endpoint is a URL, and no headers go in clear beyond this host."""
    name = next((name for name in ENDPOINTS if name in given), ENDPOINT_VARIABLE)
    url = given.get(name, ENDPOINT)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    if parts.scheme not in ("http", "https") or not host:
        raise _wrong(name, url, "is not an http or https URL")
    headers = given.get("OTEL_EXPORTER_OTLP_TRACES_HEADERS") or given.get("OTEL_EXPORTER_OTLP_HEADERS")
    address = Address(host, port or 0)
    if headers and parts.scheme == "http" and not address.is_local and not plaintext:
        raise TraceError(f"`{name}` with headers: {in_clear(address, 'an https URL')}")


def _number(text: str) -> float:
    """The number in a text; NaN, which is within no bounds, if there is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _wrong(name: str, value: str, problem: str) -> TraceError:
    return TraceError(f"`{name}`: `{value[:MAX_SHOWN]}` {problem}")
