"""Who may claim which agent id: a YAML file of `namespace/service-account: [agent ids, globs]`."""

import logging
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from pdp.core.fields import quote, quote_path
from pdp.injector.verdicts import Refusal, RefusedError
from pdp.serving.tls.reloaded import FileError, Reloaded, read_bounded

FILE = "agents-file"
MAX_BYTES = 1 << 20
MAX_ENTRIES = 10_000
logger = logging.getLogger(__name__)

_ACCOUNT = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_AGENT = re.compile(r"[a-zA-Z0-9_*?\[\]!-]{1,64}")

Claims = Mapping[str, tuple[str, ...]]


def check(claims: Claims | None, namespace: str, account: str, agent_id: str) -> None:
    """Refuse an agent id that the service account may not claim; without a file anyone may claim any."""
    if claims is None:
        return
    allowed = claims.get(f"{namespace}/{account}", ())
    if not any(fnmatchcase(agent_id, pattern) for pattern in allowed):
        who = f"service account {quote(account)} of namespace {quote(namespace)}"
        raise RefusedError(
            Refusal.AGENT_ID_NOT_ALLOWED, f"annotation `pdp.dev/agent-id`: {who} may not claim {quote(agent_id)}"
        )


class AgentsFile(Reloaded[bytes, Claims]):
    """The claims in the file of `--agents-file`; `FileError` if it cannot be used at first."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            lambda: _read(path),
            lambda raw: _load(path, raw),
            prefix="--",
            kept="what it held before",
            taken=lambda claims: logger.info("new agents file: %d service accounts", len(claims)),
        )


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_BYTES)
    except ValueError as error:
        raise FileError(FILE, str(error)) from error


def _load(path: Path, raw: bytes) -> Claims:
    try:
        return parse(raw)
    except ValueError as error:
        raise FileError(FILE, f"{quote_path(path)}: {error}") from error


def parse(raw: bytes) -> Claims:
    """The claims in a YAML text; `ValueError` says what is wrong, with the line where there is one."""
    try:
        root = yaml.compose(raw.decode(), yaml.CSafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())[:200]}") from error
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise _wrong(root, "is not a mapping of accounts to lists of agents")
    if len(root.value) > MAX_ENTRIES:
        raise ValueError(f"more than {MAX_ENTRIES} accounts")
    claims: dict[str, tuple[str, ...]] = {}
    for key, value in root.value:
        account = _text(key, _ACCOUNT, "namespace/service-account")
        if account in claims:
            raise _wrong(key, f"duplicate account {quote(account)}")
        if not isinstance(value, yaml.SequenceNode) or len(value.value) > MAX_ENTRIES:
            raise _wrong(value, f"{quote(account)}: is not a list of at most {MAX_ENTRIES} agents")
        claims[account] = tuple(_text(item, _AGENT, "an agent id or a glob") for item in value.value)
    return claims


def _text(node: yaml.Node, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or not pattern.fullmatch(node.value):
        raise _wrong(node, f"{quote(getattr(node, 'value', ''))} is not {what}")
    value: str = node.value
    return value


def _wrong(node: yaml.Node, message: str) -> ValueError:
    return ValueError(f"line {node.start_mark.line + 1}: {message}")
