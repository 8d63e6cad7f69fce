"""Who may claim which agent id: a YAML file of `namespace/service-account: [agent ids, globs]`."""

import logging
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

from pdp.core.action import AGENT_GLOB
from pdp.core.fields import quote
from pdp.injector.verdicts import Refusal, RefusedError
from pdp.serving.tls.yaml_files import YamlFile, compose, error_at

MAX_BYTES = 1 << 20
MAX_ENTRIES = 10_000
logger = logging.getLogger(__name__)

_ACCOUNT = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")

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


class AgentsFile(YamlFile[Claims]):
    """The claims in the file of `--agents-file`; `FileError` if it cannot be used at first."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            "agents-file",
            path,
            parse,
            max_bytes=MAX_BYTES,
            kept="what it held before",
            taken=lambda claims: logger.info("new agents file: %d service accounts", len(claims)),
        )


def parse(raw: bytes) -> Claims:
    """The claims in a YAML text; `ValueError` says what is wrong, with the line where there is one."""
    root = compose(raw)
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise error_at(root, "is not a mapping of accounts to lists of agents")
    if len(root.value) > MAX_ENTRIES:
        raise ValueError(f"more than {MAX_ENTRIES} accounts")
    claims: dict[str, tuple[str, ...]] = {}
    for key, value in root.value:
        account = _text(key, _ACCOUNT, "namespace/service-account")
        if account in claims:
            raise error_at(key, f"duplicate account {quote(account)}")
        if not isinstance(value, yaml.SequenceNode) or len(value.value) > MAX_ENTRIES:
            raise error_at(value, f"{quote(account)}: is not a list of at most {MAX_ENTRIES} agents")
        claims[account] = tuple(_text(item, AGENT_GLOB, "an agent id or a glob") for item in value.value)
    return claims


def _text(node: yaml.Node, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or not pattern.fullmatch(node.value):
        raise error_at(node, f"{quote(getattr(node, 'value', ''))} is not {what}")
    value: str = node.value
    return value
