"""Every setting of the injector, checked before it starts."""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from pdp.core.fields import quote
from pdp.core.model import StaleMode
from pdp.injector import quantities
from pdp.serving import addresses
from pdp.serving.addresses import Address, BadAddressError
from pdp.serving.monitoring import traces
from pdp.serving.monitoring.traces import TraceError
from pdp.settings import MAX_STALENESS_SECONDS, STALE_MODES, SettingsError, host_and_port

FAIL_MODES = ("closed", "open")
MIN_CPU_MILLIS = 10
MIN_MEMORY_BYTES = 64 << 20
MAX_CPU_MILLIS = 64_000
MAX_MEMORY_BYTES = 64 << 30
DEFAULT_RESOURCES = "cpu=100m,memory=128Mi"
DEFAULT_RESOURCES_MAX = "cpu=1,memory=512Mi"
_IMAGE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._:/@-]{0,511}")
_SECRET = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_REVISION = re.compile(r"[a-zA-Z0-9]([-a-zA-Z0-9_.]{0,61}[a-zA-Z0-9])?")


class Native(StrEnum):
    """When the sidecar is an init container that restarts always (native) rather than a container."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Resources:
    """CPU in thousandths of a core, memory in bytes."""

    cpu: int
    memory: int

    def __str__(self) -> str:
        return f"cpu={quantities.write_cpu(self.cpu)},memory={quantities.write_memory(self.memory)}"


@dataclass(frozen=True, slots=True)
class SidecarSettings:
    """What the administrator decides about every sidecar.

    `key_secret` and `store_ca_secret` are Secrets in the namespace of each pod. `plaintext`: a mesh encrypts between
    sidecar and store. A sidecar requests `resources` unless its pod asks for others, up to `resources_max`.
    `otlp_endpoint` is the URL of the collector to which it sends its traces; without one it makes none.
    """

    image: str
    store: Address
    key_secret: str
    store_ca_secret: str | None = None
    plaintext: bool = False
    max_staleness: float | None = None
    stale_mode: StaleMode | None = None
    fail_mode: str = "closed"
    resources: Resources = Resources(100, 128 << 20)
    resources_max: Resources = Resources(1000, 512 << 20)
    revision: str = "default"
    otlp_endpoint: str | None = None

    def __post_init__(self) -> None:
        _match("--image", self.image, _IMAGE, "the reference of an image")
        _match("--key-secret", self.key_secret, _SECRET, "the name of a Secret")
        if self.store_ca_secret is not None:
            _match("--store-ca-secret", self.store_ca_secret, _SECRET, "the name of a Secret")
        elif not self.plaintext:
            raise SettingsError("--store-ca-secret", "is required unless `--plaintext` says that a mesh encrypts")
        if self.store_ca_secret is not None and self.plaintext:
            raise SettingsError("--plaintext", "cannot be combined with `--store-ca-secret`")
        if self.max_staleness is not None and not 0 < self.max_staleness <= MAX_STALENESS_SECONDS:
            within = f"above 0 and at most {MAX_STALENESS_SECONDS}"
            raise SettingsError("--max-staleness", f"`{self.max_staleness:g}` is not {within}")
        if self.stale_mode is not None and self.max_staleness is None:
            raise SettingsError("--stale-mode", "requires `--max-staleness`")
        if self.fail_mode not in FAIL_MODES:
            raise SettingsError("--fail-mode", f"{quote(self.fail_mode)} is not one of {', '.join(FAIL_MODES)}")
        largest = Resources(MAX_CPU_MILLIS, MAX_MEMORY_BYTES)
        _within("--resources-max", self.resources_max, largest)
        _within("--resources", self.resources, self.resources_max)
        _match("--revision", self.revision, _REVISION, "a label's value of 1 to 63 characters")
        if self.otlp_endpoint is not None:
            _check_endpoint(self.otlp_endpoint, plaintext=self.plaintext)


@dataclass(frozen=True, slots=True)
class Settings:
    """What `pdp injector` runs with.

    `agents_file` says who may claim which agent id; without it anyone may claim any. `metrics` is a port for probes and
    metrics alone, without TLS.
    """

    listen: Address
    tls_cert: Path
    tls_key: Path
    sidecar: SidecarSettings
    native: Native = Native.AUTO
    agents_file: Path | None = None
    metrics: Address | None = None

    @classmethod
    def from_text(
        cls,
        *,
        listen: str,
        tls_cert: Path,
        tls_key: Path,
        image: str,
        store: str,
        key_secret: str,
        store_ca_secret: str | None = None,
        plaintext: bool = False,
        native: str = Native.AUTO.value,
        agents_file: Path | None = None,
        metrics: str | None = None,
        max_staleness: float | None = None,
        stale_mode: str | None = None,
        fail_mode: str = "closed",
        resources: str = DEFAULT_RESOURCES,
        resources_max: str = DEFAULT_RESOURCES_MAX,
        revision: str = "default",
        otlp_endpoint: str | None = None,
    ) -> Self:
        """The settings as a command line gives them; `SettingsError` for the first that is wrong."""
        if native not in list(Native):
            raise SettingsError("--native", f"{quote(native)} is not one of {', '.join(Native)}")
        if stale_mode is not None and stale_mode not in STALE_MODES:
            raise SettingsError("--stale-mode", f"{quote(stale_mode)} is not one of {', '.join(STALE_MODES)}")
        sidecar = SidecarSettings(
            image=image,
            store=host_and_port("--store", store, any_port=False),
            key_secret=key_secret,
            store_ca_secret=store_ca_secret,
            plaintext=plaintext,
            max_staleness=max_staleness,
            stale_mode=None if stale_mode is None else StaleMode(stale_mode),
            fail_mode=fail_mode,
            resources=read_resources("--resources", resources),
            resources_max=read_resources("--resources-max", resources_max),
            revision=revision,
            otlp_endpoint=otlp_endpoint,
        )
        return cls(
            host_and_port("--listen", listen),
            tls_cert,
            tls_key,
            sidecar,
            Native(native),
            agents_file,
            None if metrics is None else host_and_port("--metrics", metrics),
        )


def read_resources(setting: str, text: str) -> Resources:
    """Reads `cpu=QUANTITY,memory=QUANTITY`, both once."""
    parts = [part.partition("=") for part in text.split(",")]
    given = {name: value for name, _, value in parts}
    if given.keys() != {"cpu", "memory"} or len(parts) != 2:
        raise SettingsError(setting, f"{quote(text)} is not cpu=QUANTITY,memory=QUANTITY")
    try:
        return Resources(quantities.read_cpu(given["cpu"]), quantities.read_memory(given["memory"]))
    except ValueError as error:
        raise SettingsError(setting, f"a value in {quote(text)} {error}") from error


def _within(setting: str, resources: Resources, largest: Resources) -> None:
    if not MIN_CPU_MILLIS <= resources.cpu <= largest.cpu or not MIN_MEMORY_BYTES <= resources.memory <= largest.memory:
        smallest = Resources(MIN_CPU_MILLIS, MIN_MEMORY_BYTES)
        raise SettingsError(setting, f"`{resources}` is not within {smallest} to {largest}")


def _check_endpoint(url: str, *, plaintext: bool) -> None:
    """Refuse what the sidecar would refuse at its start, and a URL without a port, for which gRPC would take 443."""
    try:
        addresses.host_and_port(url.partition("://")[2], any_port=False)
        traces.check({traces.ENDPOINT_VARIABLE: url}, plaintext=plaintext)
    except (BadAddressError, TraceError) as error:
        message = f"{quote(url)} is not http://HOST:PORT or https://HOST:PORT"
        raise SettingsError("--otlp-endpoint", message) from error


def _match(setting: str, text: str, pattern: re.Pattern[str], what: str) -> None:
    if not pattern.fullmatch(text):
        raise SettingsError(setting, f"{quote(text)} is not {what}")
