"""Files that say what the holders of certificates may do, by the names in their certificates."""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar

import yaml

from pdp.serving.tls.yaml_files import MAX_SHOWN, YamlFile, compose, error_at

MAX_BYTES = 256 * 1024
MAX_ENTRIES = 10_000

logger = logging.getLogger(__name__)

Entry = TypeVar("Entry")
Plain: TypeAlias = "str | list[Plain] | dict[str, Plain]"
"""A value of YAML, in which every scalar is a text."""

# A host name, or an absolute URI such as a SPIFFE id.
_NAME = re.compile(r"[a-zA-Z0-9*_][a-zA-Z0-9._-]{0,252}|[a-zA-Z][a-zA-Z0-9+.-]{0,20}:[!-~]{1,2000}")


class NameFile(YamlFile[Mapping[str, Entry]]):
    """A YAML file that maps names of certificates to entries; `value` is the newest that can be used.

    `file` is the name of its setting. `entry` reads one entry: `ValueError` says what is wrong with it.
    """

    def __init__(self, file: str, path: Path, entry: Callable[[Plain], Entry]) -> None:
        super().__init__(
            file,
            path,
            lambda raw: {name: _entry(node, name, value, entry) for name, (node, value) in _parse(raw).items()},
            max_bytes=MAX_BYTES,
            kept="the file before it",
            taken=lambda entries: logger.info("new file `%s`: %d names", path, len(entries)),
        )


def _entry(node: yaml.Node, name: str, value: Plain, entry: Callable[[Plain], Entry]) -> Entry:
    try:
        return entry(value)
    except ValueError as error:
        raise error_at(node, f"`{name[:MAX_SHOWN]}`: {error}") from None


def _parse(raw: bytes) -> dict[str, tuple[yaml.Node, Plain]]:
    """The entries by name, each with the node of its name; `ValueError` says what is wrong."""
    root = compose(raw)
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode) or len(root.value) > MAX_ENTRIES:
        raise ValueError(f"is not a mapping of at most {MAX_ENTRIES} names")
    entries: dict[str, tuple[yaml.Node, Plain]] = {}
    for key, value in root.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else ""
        if not _NAME.fullmatch(name):
            raise error_at(key, f"`{name[:MAX_SHOWN]}` is not a host name or a URI")
        name = name if ":" in name else name.lower()
        if name in entries:
            raise error_at(key, f"duplicate name `{name[:MAX_SHOWN]}`")
        entries[name] = (key, _plain(value, set()))
    return entries


def _plain(node: yaml.Node, seen: set[int]) -> Plain:
    """The value of a node; each node counts once, so that aliases cannot make a small file large."""
    if id(node) in seen:
        raise error_at(node, "aliases are not supported")
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, seen) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        members = {str(key.value): _plain(value, seen) for key, value in node.value}
        if len(members) < len(node.value):
            raise error_at(node, "duplicate member")
        return members
    return str(node.value)
