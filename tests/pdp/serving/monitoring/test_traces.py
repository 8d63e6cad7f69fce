"""What `--traces` takes from the environment, and what the SDK may log."""

import logging
from functools import partial

import pytest

from pdp.serving.monitoring import traces, tracing
from pdp.serving.monitoring.traces import TraceError

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
FAR = "http://collector.example:4317"
WRONG = [
    ({"OTEL_TRACES_EXPORTER": "zipkin"}, "`OTEL_TRACES_EXPORTER`: `zipkin` is not one of otlp"),
    ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "`OTEL_EXPORTER_OTLP_PROTOCOL`: `http/json` is not one of grpc"),
    ({"OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "br"}, "`br` is not one of none, gzip"),
    ({"OTEL_TRACES_SAMPLER": ""}, "`OTEL_TRACES_SAMPLER`: `` is not one of always_on, "),
    ({"OTEL_TRACES_SAMPLER_ARG": "1.5"}, "`OTEL_TRACES_SAMPLER_ARG`: `1.5` is not a number from 0 to 1"),
    ({"OTEL_EXPORTER_OTLP_TIMEOUT": "nan"}, "`OTEL_EXPORTER_OTLP_TIMEOUT`: `nan` is not a number from 1 to 60"),
    ({"OTEL_BSP_MAX_QUEUE_SIZE": "9" * 400}, "99` is not a whole number from 1 to 65536"),
    ({"OTEL_BSP_SCHEDULE_DELAY": "1e3"}, "`OTEL_BSP_SCHEDULE_DELAY`: `1e3` is not a whole number from 10 to 60000"),
    (
        {"OTEL_BSP_MAX_QUEUE_SIZE": "8"},
        "_EXPORT_BATCH_SIZE`: `512` is more than OTEL_BSP_MAX_QUEUE_SIZE, 8",
    ),
    (
        {"OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/ca"},
        "OTLP_CERTIFICATE`: `/no/ca` cannot be read: No such",
    ),
    ({"OTEL_EXPORTER_OTLP_CLIENT_KEY": "a\0b"}, "cannot be read: embedded null byte"),
    ({ENDPOINT: "collector:4317"}, f"`{ENDPOINT}`: `collector:4317` is not an http or https URL"),
    ({ENDPOINT: "http://[::1:4317"}, f"`{ENDPOINT}`: `http://[::1:4317` is not an http or https URL"),
    ({ENDPOINT: "http://h:99999"}, f"`{ENDPOINT}`: `http://h:99999` is not an http or https URL"),
    (
        {ENDPOINT: FAR, "OTEL_EXPORTER_OTLP_HEADERS": "api-key=secret"},
        f"`{ENDPOINT}` with headers: `collector.example:4317` is beyond this host: it takes an https URL, or",
    ),
]
TAKEN: list[dict[str, str]] = [
    {},
    {ENDPOINT: FAR},
    {ENDPOINT: "https://collector.example", "OTEL_EXPORTER_OTLP_HEADERS": "api-key=secret"},
    {ENDPOINT: "http://[::1]:4317", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "api-key=secret"},
    {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:1", ENDPOINT: FAR, "OTEL_EXPORTER_OTLP_HEADERS": "a=b"},
    {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"},
    {"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"},
]


@pytest.mark.parametrize(("environment", "problem"), WRONG)
def test_a_wrong_variable_is_refused_by_its_name(environment: dict[str, str], problem: str) -> None:
    """In one line, which shows no header: it may hold a key."""
    with pytest.raises(TraceError) as refused:
        traces.check(environment, plaintext=False)
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("environment", TAKEN)
def test_what_the_specification_allows_is_taken(environment: dict[str, str]) -> None:
    """As far as this program can do it."""
    traces.check(environment, plaintext=False)


def test_a_mesh_may_carry_headers_in_clear() -> None:
    """With `--plaintext`."""
    traces.check({ENDPOINT: FAR, "OTEL_EXPORTER_OTLP_HEADERS": "api-key=secret"}, plaintext=True)


async def test_what_the_sdk_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK has variables that this program does not know."""
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many")
    with pytest.raises(TraceError, match=r"^OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT must be a non-negative integer"):
        async with traces.running("pdp", plaintext=False, drain_seconds=0):
            pass


async def test_a_program_raises_its_own_error_for_traces_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it was asked for traces; without them it starts, whatever the variables say."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    asked = partial(traces.running_if, program="pdp", plaintext=False, drain_seconds=0, error_of=LookupError)
    async with asked(False) as tracing:
        assert tracing is None
    with pytest.raises(LookupError, match=r"^`OTEL_TRACES_EXPORTER`: `console` is not one of otlp$"):
        async with asked(True):
            pass


async def test_the_sdk_repeats_a_line_after_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With other values in it, it is the same line."""
    now = 1000.0
    monkeypatch.setattr(tracing, "monotonic", lambda: now)
    async with traces.running("pdp", plaintext=False, drain_seconds=0):
        logger = logging.getLogger("opentelemetry.exporter")
        for after in (0.0, 1.0, 58.0, 60.0, 61.0):
            now = 1000.0 + after
            logger.warning("failed to send to %s", after)
        logger.error("another line")
    assert [record.getMessage() for record in caplog.records] == [
        "failed to send to 0.0",
        "failed to send to 60.0",
        "another line",
    ]
