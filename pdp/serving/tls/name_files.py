"""Files that say what the holders of certificates may do, by the names in their certificates."""

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias, TypeVar

import yaml

from pdp.serving.tls.reloaded import FileError, Reloaded, read_bounded

MAX_BYTES = 256 * 1024
MAX_ENTRIES = 10_000
MAX_SHOWN = 200

logger = logging.getLogger(__name__)

Entry = TypeVar("Entry")
Plain: TypeAlias = "str | list[Plain] | dict[str, Plain]"
"""A value of YAML, in which every scalar is a text."""

# A host name, or an absolute URI such as a SPIFFE id.
_NAME = re.compile(r"[a-zA-Z0-9*_][a-zA-Z0-9._-]{0,252}|[a-zA-Z][a-zA-Z0-9+.-]{0,20}:[!-~]{1,2000}")


class NameFile(Reloaded[bytes, Mapping[str, Entry]]):
    """A YAML file that maps names of certificates to entries; `value` is the newest that can be used.

    `file` is the name of its setting. `entry` reads one entry: `ValueError` says what is wrong with it.
    """

    def __init__(self, file: str, path: Path, entry: Callable[[Plain], Entry]) -> None:
        super().__init__(
            lambda: _read(file, path),
            lambda raw: _load(file, path, raw, entry),
            prefix="--",
            kept="the file before it",
            taken=lambda entries: logger.info("new file `%s`: %d names", path, len(entries)),
        )


def _read(file: str, path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_BYTES)
    except ValueError as error:
        raise FileError(file, str(error)) from None


def _load(file: str, path: Path, raw: bytes, entry: Callable[[Plain], Entry]) -> dict[str, Entry]:
    try:
        return {name: _entry(line, name, value, entry) for name, (line, value) in _parse(raw).items()}
    except ValueError as error:
        raise FileError(file, f"`{path}`: {error}") from None


def _entry(line: int, name: str, value: Plain, entry: Callable[[Plain], Entry]) -> Entry:
    try:
        return entry(value)
    except ValueError as error:
        raise ValueError(f"line {line}: `{name[:MAX_SHOWN]}`: {error}") from None


def _parse(raw: bytes) -> dict[str, tuple[int, Plain]]:
    """The entries by name, each with its line; `ValueError` says what is wrong."""
    try:
        root = yaml.compose(raw.decode(), yaml.CSafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())[:MAX_SHOWN]}") from None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode) or len(root.value) > MAX_ENTRIES:
        raise ValueError(f"is not a mapping of at most {MAX_ENTRIES} names")
    entries: dict[str, tuple[int, Plain]] = {}
    for key, value in root.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else ""
        line = key.start_mark.line + 1
        if not _NAME.fullmatch(name):
            raise ValueError(f"line {line}: `{name[:MAX_SHOWN]}` is not a host name or a URI")
        name = name if ":" in name else name.lower()
        if name in entries:
            raise ValueError(f"line {line}: duplicate name `{name[:MAX_SHOWN]}`")
        entries[name] = (line, _plain(value, set()))
    return entries


def _plain(node: yaml.Node, seen: set[int]) -> Plain:
    """The value of a node; each node counts once, so that aliases cannot make a small file large."""
    if id(node) in seen:
        raise ValueError(f"line {node.start_mark.line + 1}: aliases are not supported")
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, seen) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        members = {str(key.value): _plain(value, seen) for key, value in node.value}
        if len(members) < len(node.value):
            raise ValueError(f"line {node.start_mark.line + 1}: duplicate member")
        return members
    return str(node.value)
