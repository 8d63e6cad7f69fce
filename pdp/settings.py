"""Every setting of a sidecar, checked before anything starts."""

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc

from pdp.core.action import AGENT_ID
from pdp.core.errors import Problem, Problems
from pdp.core.fields import quote, quote_path
from pdp.core.model import StaleMode
from pdp.core.records import TAGS
from pdp.decision_log.redaction import NOTHING, BadPathError, Redaction
from pdp.serving import addresses, secret_files
from pdp.serving.addresses import Address, BadAddressError
from pdp.serving.tls import certificates
from pdp.serving.tls.certificates import CertificateError, ClientFiles, Files, channel_credentials
from pdp.serving.tls.reloaded import FileError

LOG_FULL = ("drop", "block")
STALE_MODES = tuple(mode.value for mode in StaleMode)
MAX_STALENESS_SECONDS = 30 * 86_400
MIN_LOG_BYTES, MAX_LOG_BYTES = 1 << 20, 64 << 30
MAX_AGENTS = 1000
MAX_KEY_BYTES = 1024
MAX_SOCKET_PATH_BYTES = 107
MAX_HOST_CHARACTERS = 253
MAX_NODE_NAME = 128
SOCKET_MODE = 0o660
OWN_MODE, MAX_MODE = 0o600, 0o777
NODE_NAME = re.compile(f"[ -~]{{0,{MAX_NODE_NAME}}}")


class SettingsError(ValueError):
    """A setting is wrong, or what it names cannot be had; the text is one line that names the setting."""

    def __init__(self, setting: str, message: str) -> None:
        self.setting = setting
        super().__init__(f"`{setting}`: {message}")


@dataclass(frozen=True, slots=True)
class Subscription:
    """Which agents a sidecar decides for: the named ones, those with one of the tags, or, with neither, all."""

    agents: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.agents:
            return f"agents {','.join(self.agents)}"
        return f"tags {','.join(self.tags)}" if self.tags else "all agents"


@dataclass(frozen=True, slots=True)
class Settings:
    """What `pdp serve` runs with; `drain_seconds` bounds how long a stop waits for calls in flight.

    `log_bytes` bounds the decision log, and `log_full` says whether, when it is full, the oldest records give way
    (drop) or decisions are refused (block). `redact` keeps attributes out of it, and `log_decisions` prints it as well.
    Registry data that the store has not confirmed for more than `max_staleness` seconds is stale (None: it never is),
    and `stale_mode` says what then becomes of decisions.
    `node_name` is shown by the store, for people.
    `tls` are the files of its TCP listeners, `store_tls` those for the connection to the store; without them only
    `plaintext` lets it use addresses beyond this host. `key_file` may be left out if `store_tls` has a certificate.
    `socket_mode` is the mode of its Unix sockets. `caller_agents` is a file that says which agents the names in client
    certificates may ask for.
    `metrics` is an address for metrics and probes alone, which `http` has too. With `traces`, decisions become spans.
    `http_hosts` are the names by which the HTTP port may be called, beside IP addresses and localhost.
    """

    store: Address
    key_file: Path | None
    subscription: Subscription
    listen: tuple[Address, ...]
    http: tuple[Address, ...]
    data_dir: Path
    drain_seconds: float = 10.0
    reflection: bool = False
    log_bytes: int = 256 << 20
    log_full: str = "drop"
    redact: Redaction = NOTHING
    log_decisions: bool = False
    max_staleness: float | None = None
    stale_mode: StaleMode = StaleMode.BLOCK
    http_hosts: tuple[str, ...] = ()
    node_name: str = ""
    tls: Files | None = None
    store_tls: ClientFiles | None = None
    plaintext: bool = False
    socket_mode: int = SOCKET_MODE
    caller_agents: Path | None = None
    metrics: Address | None = None
    traces: bool = False

    def __post_init__(self) -> None:
        self._check_addresses()
        if not 0 <= self.drain_seconds <= 3600:
            raise SettingsError("--drain-seconds", f"`{self.drain_seconds:g}` is not within 0 to 3600")
        if not MIN_LOG_BYTES <= self.log_bytes <= MAX_LOG_BYTES:
            within = f"{MIN_LOG_BYTES} to {MAX_LOG_BYTES}"
            raise SettingsError("--log-bytes", f"`{self.log_bytes}` is not within {within}")
        if self.log_full not in LOG_FULL:
            raise SettingsError("--log-full", f"{quote(self.log_full)} is not one of {', '.join(LOG_FULL)}")
        if self.max_staleness is not None and not 0 < self.max_staleness <= MAX_STALENESS_SECONDS:
            within = f"above 0 and at most {MAX_STALENESS_SECONDS}"
            raise SettingsError("--max-staleness", f"`{self.max_staleness:g}` is not {within}")
        if not NODE_NAME.fullmatch(self.node_name):
            what = f"at most {MAX_NODE_NAME} printable ASCII characters"
            raise SettingsError("--node-name", f"{quote(self.node_name)} is not {what}")
        if not OWN_MODE <= self.socket_mode <= MAX_MODE or self.socket_mode & OWN_MODE != OWN_MODE:
            what = f"within {OWN_MODE:04o} to {MAX_MODE:04o} with read and write for the owner"
            raise SettingsError("--socket-mode", f"`{self.socket_mode:04o}` is not {what}")
        self._check_plaintext()
        if self.caller_agents is not None and (self.tls is None or self.tls.client_ca is None):
            raise SettingsError("--caller-agents", "requires `--tls-client-ca`")
        if self.store_tls is not None:
            read_credentials(self.store_tls)
        if self.key_file is not None:
            read_key(self.key_file)
        elif self.store_tls is None or self.store_tls.cert is None:
            raise SettingsError("--key-file", "is required without `--store-cert`")

    def _check_addresses(self) -> None:
        """Refuse an address that is missing, or that two listeners share."""
        for setting, found in (("--listen", self.listen), ("--http", self.http)):
            if not found:
                raise SettingsError(setting, "at least one unix:PATH or HOST:PORT is required")
            if len(set(found)) != len(found):
                raise SettingsError(setting, "duplicate address")
        for one in self.http:
            if one.path and one in self.listen:
                raise SettingsError("--http", f"`{one}` is the address of another listener")
        if self.metrics is not None and self.metrics.port and self.metrics in (*self.http, *self.listen):
            raise SettingsError("--metrics", f"`{self.metrics}` is the address of another listener")

    def _check_plaintext(self) -> None:
        """Refuse addresses beyond this host at which no TLS protects what is sent."""
        if self.plaintext:
            return
        listeners = [("--listen", one) for one in self.listen] + [("--http", one) for one in self.http]
        for setting, address in listeners:
            if self.tls is None and not address.is_local:
                raise SettingsError(setting, addresses.in_clear(address, "`--tls-cert` and `--tls-key`"))
        if self.store_tls is None and not self.store.is_local:
            raise SettingsError("--store", addresses.in_clear(self.store, "`--store-ca`"))

    @classmethod
    def from_text(
        cls,
        *,
        store: str,
        key_file: Path | None,
        agents: str | None,
        tags: str | None,
        all_agents: bool,
        listen: Iterable[str],
        http: Iterable[str],
        data_dir: Path,
        drain_seconds: float = 10.0,
        reflection: bool = False,
        log_bytes: int = 256 << 20,
        log_full: str = "drop",
        redact: Iterable[str] = (),
        log_decisions: bool = False,
        max_staleness: float | None = None,
        stale_mode: str | None = None,
        http_hosts: str | None = None,
        node_name: str | None = None,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        tls_client_ca: Path | None = None,
        store_ca: Path | None = None,
        store_cert: Path | None = None,
        store_key: Path | None = None,
        plaintext: bool = False,
        socket_mode: str = f"{SOCKET_MODE:04o}",
        caller_agents: Path | None = None,
        metrics: str | None = None,
        traces: bool = False,
    ) -> Self:
        """The settings as a command line gives them; `SettingsError` for the first that is wrong."""
        return cls(
            store=host_and_port("--store", store, any_port=False),
            key_file=key_file,
            subscription=read_subscription(agents, tags, all_agents),
            listen=tuple(address("--listen", text) for text in listen),
            http=tuple(address("--http", text) for text in http),
            data_dir=data_dir,
            drain_seconds=drain_seconds,
            reflection=reflection,
            log_bytes=log_bytes,
            log_full=log_full,
            redact=_redaction(redact),
            log_decisions=log_decisions,
            max_staleness=max_staleness,
            stale_mode=_stale_mode(stale_mode, max_staleness),
            http_hosts=() if http_hosts is None else _hosts(http_hosts),
            node_name=_host_name() if node_name is None else node_name,
            tls=server_files(tls_cert, tls_key, tls_client_ca),
            store_tls=client_files("--store-", store_ca, store_cert, store_key),
            plaintext=plaintext,
            socket_mode=_mode(socket_mode),
            caller_agents=caller_agents,
            metrics=None if metrics is None else host_and_port("--metrics", metrics),
            traces=traces,
        )


def read_subscription(agents: str | None, tags: str | None, all_agents: bool) -> Subscription:
    """Exactly one of comma-separated agent ids, comma-separated tags, or all."""
    if sum((agents is not None, tags is not None, all_agents)) != 1:
        raise SettingsError("--agents", "exactly one of `--agents`, `--tags` and `--all-agents` is required")
    if agents is not None:
        return Subscription(agents=_names("--agents", agents))
    return Subscription(tags=_names("--tags", tags)) if tags is not None else Subscription()


def address(setting: str, text: str) -> Address:
    """`unix:PATH` or `HOST:PORT`, where port 0 takes a free one."""
    if not text.startswith("unix:"):
        return host_and_port(setting, text, what="unix:PATH or HOST:PORT")
    path = text.removeprefix("unix:").removeprefix("//")
    if not path or "\0" in path:
        raise SettingsError(setting, f"{quote(text)} is not unix:PATH or HOST:PORT")
    path = str(Path(path).absolute())
    if len(path.encode()) > MAX_SOCKET_PATH_BYTES:
        raise SettingsError(setting, f"{quote(path)} is longer than {MAX_SOCKET_PATH_BYTES} bytes")
    return Address(path=path)


def host_and_port(setting: str, text: str, *, any_port: bool = True, what: str = "HOST:PORT") -> Address:
    """`HOST:PORT`, an IPv6 host in brackets; port 0 only where `any_port`."""
    try:
        return addresses.host_and_port(text, any_port=any_port, what=what)
    except BadAddressError as error:
        raise SettingsError(setting, str(error)) from error


def file_error(prefix: str, error: FileError) -> SettingsError:
    """What is wrong with a file, of a setting whose name begins with `prefix`."""
    return SettingsError(f"{prefix}{error.file}", str(error))


def server_files(cert: Path | None, key: Path | None, client_ca: Path | None) -> Files | None:
    """The files of the TLS of listeners; None without a certificate."""
    try:
        return certificates.server_files(cert, key, client_ca)
    except CertificateError as error:
        raise file_error("--tls-", error) from error


def client_files(prefix: str, ca: Path | None, cert: Path | None, key: Path | None) -> ClientFiles | None:
    """The files of the TLS of a client, whose settings begin with `prefix`; None without authorities."""
    try:
        return certificates.client_files(ca, cert, key)
    except CertificateError as error:
        raise file_error(prefix, error) from error


def read_credentials(files: ClientFiles, prefix: str = "--store-") -> grpc.ChannelCredentials:
    """Credentials from the files as they are now; read anew for each connection, so that new files are picked up."""
    try:
        return channel_credentials(files)
    except CertificateError as error:
        raise file_error(prefix, error) from error


def read_key(path: Path) -> str:
    """The API key in the file at `path`; read anew for each connection, so that a rotated key is picked up."""
    try:
        key = secret_files.read(path)
    except secret_files.SecretFileError as error:
        raise SettingsError("--key-file", str(error)) from error
    if not key or len(key) > MAX_KEY_BYTES or not re.fullmatch(rb"[!-~]+", key):
        raise SettingsError("--key-file", f"{quote_path(path)} does not hold one API key and nothing else")
    return key.decode()


def _mode(text: str) -> int:
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise SettingsError("--socket-mode", f"{quote(text)} is not a mode such as {SOCKET_MODE:04o}")
    return int(text, 8)


def _stale_mode(text: str | None, max_staleness: float | None) -> StaleMode:
    if text is None:
        return StaleMode.BLOCK
    if text not in STALE_MODES:
        raise SettingsError("--stale-mode", f"{quote(text)} is not one of {', '.join(STALE_MODES)}")
    if max_staleness is None:
        raise SettingsError("--stale-mode", "requires `--max-staleness`")
    return StaleMode(text)


def _redaction(paths: Iterable[str]) -> Redaction:
    try:
        return Redaction.of(paths)
    except BadPathError as error:
        raise SettingsError("--redact", str(error)) from error


def _host_name() -> str:
    """The name of this machine, or pod; empty where the store would refuse it."""
    name = socket.gethostname()
    return name if NODE_NAME.fullmatch(name) else ""


def _hosts(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if len(name) > MAX_HOST_CHARACTERS or not re.fullmatch(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]*[a-zA-Z0-9_])?", name):
            raise SettingsError("--http-hosts", f"{quote(name)} is not the name of a host")
    return tuple(name.lower() for name in names)


def _names(setting: str, text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    problems = Problems()
    if setting == "--agents":
        for name in names:
            AGENT_ID.read(name, quote(name), problems)
        if len(set(names)) != len(names):
            problems.append(Problem("", "duplicate agent"))
        if len(names) > MAX_AGENTS:
            problems.append(Problem("", f"more than {MAX_AGENTS} agents; use `--tags` or `--all-agents`"))
    else:
        TAGS.read(names, "", problems)
    if problems:
        raise SettingsError(setting, str(next(iter(problems))))
    return names
