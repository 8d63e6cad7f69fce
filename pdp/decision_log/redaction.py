"""The attributes that the decision log redacts, by dotted paths: `customer.ssn`, `cards.*.number`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pdp.core.fields import quote

REDACTED = "[redacted]"
MAX_PATHS = 100
MAX_PATH_CHARACTERS = 1024

Path = tuple[str, ...]


class BadPathError(ValueError):
    """A path is invalid; the text says why."""


class Redaction(NamedTuple):
    """The paths whose values are replaced by `[redacted]`."""

    paths: tuple[Path, ...] = ()

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Redaction":
        """The redaction of these dotted paths; `BadPathError` for the first invalid one."""
        paths = tuple(map(_path, texts))
        if len(paths) > MAX_PATHS:
            raise BadPathError(f"there are more than {MAX_PATHS} paths")
        return cls(paths)

    def __call__(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of `attributes` without the values that the paths name; all other values are shared."""
        return {name: _redacted(value, _inner_paths(self.paths, name)) for name, value in attributes.items()}


def _path(text: str) -> Path:
    path = tuple(text.split("."))
    if not all(path):
        raise BadPathError(f"{quote(text)} is not a dotted path, as `customer.ssn` or `cards.*.number`")
    if len(text) > MAX_PATH_CHARACTERS:
        raise BadPathError(f"{quote(text)} is longer than {MAX_PATH_CHARACTERS} characters")
    return path


def _redacted(value: Any, paths: tuple[Path, ...]) -> Any:
    if not paths:
        return value
    if () in paths:
        return REDACTED
    if isinstance(value, Mapping):
        return {name: _redacted(inner, _inner_paths(paths, name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(inner, _inner_paths(paths, str(index))) for index, inner in enumerate(value)]
    return value


def _inner_paths(paths: Iterable[Path], name: str) -> tuple[Path, ...]:
    return tuple(rest for path in paths for rest in _rest_of_path(path, name))


def _rest_of_path(path: Path, name: str) -> Iterator[Path]:
    """The rest of a path inside the member `name`, which may contain dots itself, as in `customer.ssn`."""
    if path[0] in ("*", name):
        yield path[1:]
    names = tuple(name.split("."))
    if len(names) > 1 and all(part in ("*", one) for part, one in zip(path, names, strict=False)):
        yield path[len(names) :]


NOTHING = Redaction()
