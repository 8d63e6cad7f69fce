"""A YAML file that is read again when it changes."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import yaml

from pdp.core.fields import quote_path
from pdp.serving.tls.reloaded import FileError, Reloaded, read_bounded

MAX_SHOWN = 200
"""Maximum number of characters of wrong YAML in a message."""

Value = TypeVar("Value")


class YamlFile(Reloaded[bytes, Value]):
    """What `parse` makes of the text in a file; `value` is the newest that can be used.

    `file` is the name of its setting. `parse` raises a `ValueError` that says what is wrong.
    """

    def __init__(
        self,
        file: str,
        path: Path,
        parse: Callable[[bytes], Value],
        *,
        max_bytes: int,
        kept: str,
        taken: Callable[[Value], None],
    ) -> None:
        super().__init__(
            lambda: _read(file, path, max_bytes),
            lambda raw: _load(file, path, raw, parse),
            prefix="--",
            kept=kept,
            taken=taken,
        )


def _read(file: str, path: Path, max_bytes: int) -> bytes:
    try:
        return read_bounded(path, max_bytes)
    except ValueError as error:
        raise FileError(file, str(error)) from None


def _load(file: str, path: Path, raw: bytes, parse: Callable[[bytes], Value]) -> Value:
    try:
        return parse(raw)
    except ValueError as error:
        raise FileError(file, f"{quote_path(path)}: {error}") from None


def compose(raw: bytes) -> yaml.Node | None:
    """The root of a YAML text, None if it is empty; `ValueError` says what is wrong."""
    try:
        root: yaml.Node | None = yaml.compose(raw.decode(), yaml.CSafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())[:MAX_SHOWN]}") from None
    return root


def error_at(node: yaml.Node, problem: str) -> ValueError:
    """The error that names the line of a node."""
    return ValueError(f"line {node.start_mark.line + 1}: {problem}")
