"""YAML restricted to JSON values, each with its line number.

Values follow YAML 1.2: `no` and `17:00` are strings, `017` is not a number. Anything that JSON cannot express (tags,
aliases, keys that are not strings, duplicate keys) is a problem with its line.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from pdp.core.errors import Problem, Problems
from pdp.core.fields import join

MAX_DEPTH = 64
"""Maximum levels of nesting: more than any record has."""
TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"
MAX_DIGITS = 400
TAG = "tag:yaml.org,2002:"
NUMBER = r"-?(?:0|[1-9][0-9]*)"
OTHER_BREAKS = re.compile("[\r\x85\u2028\u2029]")
"""Further characters that end a line in YAML: they must be escaped."""
SCALARS = (
    ("null", re.compile(r"(?:null|Null|NULL|~|)\Z"), ["n", "N", "~", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    ("int", re.compile(rf"{NUMBER}\Z"), list("-0123456789")),
    ("float", re.compile(rf"{NUMBER}(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?\Z"), list("-0123456789")),
)

VALUES: Mapping[str, Callable[[str], Any]] = {
    "str": str,
    "null": lambda _: None,
    "bool": lambda text: text.lower() == "true",
    "int": int,
    "float": float,
}


class YamlFormError(Exception):
    """The text is not valid YAML; `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        super().__init__(message)


@dataclass
class Document:
    """A document: its value, its problems, and the line of each path in it."""

    value: Any
    line: int
    problems: Problems = field(default_factory=Problems)
    lines: dict[str, int] = field(default_factory=dict)

    def line_of(self, path: str) -> int:
        """The line of the value at `path`, or of the nearest value that contains it."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get(path, self.line)


class _Dumper(yaml.SafeDumper):
    """Quotes strings that this loader or a YAML 1.1 loader would read as another type."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as in PyYAML
        first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        """Indents lists under their key."""
        return super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        """Never writes an alias for a repeated value."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = '"' if OTHER_BREAKS.search(value) else "|" if "\n" in value else None
    return dumper.represent_scalar(f"{TAG}str", value, style=style)


_Dumper.add_representer(str, _text)
for _name, _pattern, _first in SCALARS:
    _Dumper.add_implicit_resolver(TAG + _name, _pattern, _first)


def documents(text: str) -> Iterator[Document]:
    """Parses the documents of a text, without empty ones; `YamlFormError` if it is not valid YAML."""
    events = yaml.parse(text, yaml.CSafeLoader)
    try:
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                found = _document(events)
                if found.value is not None or found.problems:
                    yield found
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"not YAML: {error.problem or error.context}"
        if "nesting" in message:  # libyaml reads ahead within a line and may reach its own limit first
            message = TOO_DEEP
        raise YamlFormError(mark.line + 1 if mark else 1, message) from None
    except yaml.YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        raise YamlFormError(line, f"not YAML: {str(error).partition(chr(10))[0]}") from None


def dump(*values: Mapping[str, Any]) -> str:
    """Writes the values as the documents of one text."""
    return yaml.dump_all(
        values, Dumper=_Dumper, explicit_start=len(values) > 1, sort_keys=False, allow_unicode=True, width=120
    )


def _document(events: Iterator[yaml.Event]) -> Document:
    first = next(events)
    document = Document(None, _line(first))
    document.value = _Reader(document, events).value(first, "", 0)
    return document


class _Reader:
    """Converts events to values, and records their lines and problems in the document."""

    def __init__(self, document: Document, events: Iterator[yaml.Event]) -> None:
        self._document = document
        self._events = events

    def value(self, event: yaml.Event, path: str, depth: int) -> Any:
        self._document.lines.setdefault(path, _line(event))
        if depth > MAX_DEPTH:  # raised, because every following value is too deep as well
            raise YamlFormError(_line(event), TOO_DEEP)
        match event:
            case yaml.AliasEvent():
                return self._problem(path, "is an alias: write it out")
            case yaml.MappingStartEvent():
                self._check_tag(event.tag, path, "map")
                return self._mapping(path, depth)
            case yaml.SequenceStartEvent():
                self._check_tag(event.tag, path, "seq")
                items = enumerate(self._until(yaml.SequenceEndEvent))
                return [self.value(item, f"{path}[{index}]", depth + 1) for index, item in items]
            case yaml.ScalarEvent():
                self._check_tag(event.tag, path, "str")
                return self._scalar(event, path)
        raise AssertionError(f"the parser returned {event} as a value")

    def _mapping(self, path: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in self._until(yaml.MappingEndEvent):
            key = self.value(event, "", depth + 1)
            inner = join(path, key if isinstance(key, str) else getattr(event, "value", "?"))
            self._document.lines[inner] = _line(event)
            value = self.value(next(self._events), inner, depth + 1)
            if not isinstance(key, str):
                self._problem(inner, "the key is not a string: quote it")
            elif key in found:
                self._problem(inner, "duplicate key")
            else:
                found[key] = value
        return found

    def _scalar(self, event: yaml.ScalarEvent, path: str) -> Any:
        kind = _kind(event.value) if event.tag is None and event.implicit[0] else "str"
        if kind in ("int", "float") and len(event.value) > MAX_DIGITS:
            return self._problem(path, f"has more than {MAX_DIGITS} digits")
        return VALUES[kind](event.value)

    def _until(self, end: type[yaml.Event]) -> Iterator[yaml.Event]:
        for event in self._events:
            if isinstance(event, end):
                return
            yield event

    def _check_tag(self, tag: str | None, path: str, kind: str) -> None:
        if tag not in (None, "!", TAG + kind):
            self._problem(path, f"has the tag `{tag}`: tags are not supported")

    def _problem(self, path: str, message: str) -> None:
        self._document.problems.append(Problem(path, message))


def _kind(text: str) -> str:
    return next((kind for kind, pattern, _ in SCALARS if pattern.match(text)), "str")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1
