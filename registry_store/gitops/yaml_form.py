"""YAML as the registry's folder has it: JSON values and nothing else, each with the line on which it stands.

YAML 1.2's idea of a value: `no` and `17:00` are texts, `017` is no number. What YAML can say and JSON cannot (tags,
aliases, keys that are not texts, a key twice) is a problem of its line.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from pdp.core.errors import Problem, Problems
from pdp.core.fields import join

DEEPEST = 64
"""Levels of nesting: more than any record has."""
TOO_DEEP = f"nested more than {DEEPEST} levels deep"
MAX_DIGITS = 400
TAG = "tag:yaml.org,2002:"
NUMBER = r"-?(?:0|[1-9][0-9]*)"
OTHER_BREAKS = re.compile("[\r\x85\u2028\u2029]")
"""What YAML takes for the end of a line as well: kept only where it is escaped."""
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
    """A text that is no YAML; `line` is where, counted from 1."""

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        super().__init__(message)


@dataclass
class Document:
    """One document: its value, the problems of its form, and the line of each path in it."""

    value: Any
    line: int
    problems: Problems = field(default_factory=Problems)
    lines: dict[str, int] = field(default_factory=dict)

    def line_of(self, path: str) -> int:
        """The line of what stands at `path`, or of the nearest thing around it that is there."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get(path, self.line)


class _Dumper(yaml.SafeDumper):
    """Quotes what either this loader or one of YAML 1.1 would take for something else than a text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - how PyYAML has it
        first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> Any:
        """Lists stand in from their key."""
        return super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        """Values are written out each time."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = '"' if OTHER_BREAKS.search(value) else "|" if "\n" in value else None
    return dumper.represent_scalar(f"{TAG}str", value, style=style)


_Dumper.add_representer(str, _text)
for _name, _pattern, _first in SCALARS:
    _Dumper.add_implicit_resolver(TAG + _name, _pattern, _first)


def documents(text: str) -> Iterator[Document]:
    """The documents of a text but for empty ones; `YamlFormError` where it is none."""
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
        if "nesting" in message:  # libyaml has a bound too, and may meet it first: it reads ahead within a line
            message = TOO_DEEP
        raise YamlFormError(mark.line + 1 if mark else 1, message) from None
    except yaml.YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        raise YamlFormError(line, f"not YAML: {str(error).partition(chr(10))[0]}") from None


def dump(*values: Mapping[str, Any]) -> str:
    """The values as the documents of one text."""
    return yaml.dump_all(
        values, Dumper=_Dumper, explicit_start=len(values) > 1, sort_keys=False, allow_unicode=True, width=120
    )


def _document(events: Iterator[yaml.Event]) -> Document:
    first = next(events)
    document = Document(None, _line(first))
    document.value = _Reader(document, events).value(first, "", 0)
    return document


class _Reader:
    """Makes values of events, and notes their lines and problems in the document."""

    def __init__(self, document: Document, events: Iterator[yaml.Event]) -> None:
        self._document = document
        self._events = events

    def value(self, event: yaml.Event, path: str, depth: int) -> Any:
        self._document.lines.setdefault(path, _line(event))
        if depth > DEEPEST:  # here and not as a problem: whatever follows is deep too
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
        raise AssertionError(f"the parser gave {event} for a value")

    def _mapping(self, path: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for event in self._until(yaml.MappingEndEvent):
            key = self.value(event, "", depth + 1)
            inner = join(path, key if isinstance(key, str) else getattr(event, "value", "?"))
            self._document.lines[inner] = _line(event)
            value = self.value(next(self._events), inner, depth + 1)
            if not isinstance(key, str):
                self._problem(inner, "the key is not a text: put it in quotes")
            elif key in found:
                self._problem(inner, "stands there twice")
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
            self._problem(path, f"has the tag `{tag}`: tags are not read")

    def _problem(self, path: str, message: str) -> None:
        self._document.problems.append(Problem(path, message))


def _kind(text: str) -> str:
    return next((kind for kind, pattern, _ in SCALARS if pattern.match(text)), "str")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1
