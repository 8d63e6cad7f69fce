"""A folder of YAML files: agents with their policies, organisation policies and MCP servers, for a git repository.

Each document names its `kind` and has the fields that a caller of the REST interface may write; a missing field has its
default. Files end in .yaml or .yml, may be in any subfolder, and may hold several documents.
"""

import hashlib
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pdp.core.errors import MAX_PROBLEMS, InvalidRecordError, Problem, Problems
from pdp.core.fields import Field
from pdp.core.records import (
    APPLIES_TO,
    CONFIGURATION,
    POLICY_BODY,
    SERVER_BODY,
    read_organisation_policy_body,
    read_server_body,
)
from registry_store.documents import Document, to_json, without_defaults
from registry_store.errors import StartError
from registry_store.gitops import yaml_form
from registry_store.gitops.yaml_form import YamlFormError
from registry_store.records import declarations

ENDINGS = (".yaml", ".yml")
MAX_BYTES = 64 * 1024 * 1024
"""Maximum size of one file."""


@dataclass(frozen=True, slots=True)
class ObjectKind:
    """A kind of object: the field that identifies it, its fields, and the function that reads its document."""

    name: str
    id_field: str
    fields: Mapping[str, Field]
    read: Callable[[Any], Document]


def _read_agent(body: Any) -> Document:
    if isinstance(body, Mapping) and "version_notes" in body:
        raise InvalidRecordError([Problem("version_notes", "unknown field: use `apply --note`")])
    declared = declarations.read(body)
    status = declared.status and declared.status.value
    return declared.configuration | {"status": status, "policies": list(declared.policies)}


AGENT = ObjectKind("agent", "agent_id", CONFIGURATION, _read_agent)
ORGANISATION_POLICY = ObjectKind(
    "organisation_policy",
    "policy_name",
    POLICY_BODY | {"applies_to": APPLIES_TO},
    lambda body: to_json(read_organisation_policy_body(body)),
)
MCP_SERVER = ObjectKind("mcp_server", "server_name", SERVER_BODY, lambda body: to_json(read_server_body(body)))
KINDS = {kind.name: kind for kind in (MCP_SERVER, ORGANISATION_POLICY, AGENT)}


class Object(NamedTuple):
    """An object with every field; missing fields have their defaults."""

    kind: ObjectKind
    id: str
    document: Document


class Fault(NamedTuple):
    """A problem in a file, and its line."""

    file: Path
    line: int
    problem: Problem

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.problem}"


class FolderError(Exception):
    """The folder cannot be applied; `faults` has every fault, the message the first hundred."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = faults
        lines = [str(fault) for fault in faults[:MAX_PROBLEMS]]
        if len(faults) > MAX_PROBLEMS:
            lines.append(f"and {len(faults) - MAX_PROBLEMS:,} more")
        super().__init__("\n".join(lines))


def read(folder: Path) -> list[Object]:
    """Reads every object of the folder, in the order of files; `FolderError` with every fault of every file."""
    if not folder.is_dir():
        raise StartError(f"`{folder}` is not a folder")
    objects: dict[tuple[str, str], tuple[Object, str]] = {}
    faults: list[Fault] = []
    for file in _files(folder, faults):
        for found, line in _objects(file, faults):
            key = (found.kind.name, found.id)
            if key in objects:
                message = f"duplicate {found.kind.name} `{found.id}`: also at {objects[key][1]}"
                faults.append(Fault(file, line, Problem(found.kind.id_field, message)))
            else:
                objects[key] = (found, f"{file}:{line}")
    if faults:
        raise FolderError(faults)
    return [found for found, _ in objects.values()]


def write(folder: Path, objects: Iterable[Object]) -> int:
    """Writes the objects for `read` and returns their number; `StartError` if the folder already holds YAML.

    Organisation policies share one file: policies of the same priority are evaluated in the order of the file.
    """
    faults: list[Fault] = []
    if folder.is_dir() and _files(folder, faults):
        raise StartError(f"`{folder}` already holds YAML: export to an empty folder")
    if faults:
        raise StartError(str(faults[0]))
    names = _Names()
    shared: list[Document] = []
    number = 0
    for number, found in enumerate(objects, 1):  # noqa: B007 - the last number is the count
        if found.kind is ORGANISATION_POLICY:
            shared.append(file_document(found))
        else:
            _write(folder / f"{found.kind.name}s" / f"{names.of(found)}.yaml", file_document(found))
    if shared:
        _write(folder / f"{ORGANISATION_POLICY.name.removesuffix('y')}ies.yaml", *shared)
    return number


def file_document(found: Object) -> Document:
    """The document of an object in a file: its kind, and the fields that differ from their defaults."""
    document = {"kind": found.kind.name} | without_defaults(found.document, found.kind.fields)
    if found.kind is not AGENT:
        return document
    bodies = [without_defaults(body, POLICY_BODY) for body in found.document["policies"]]
    status = {"status": found.document["status"]} if found.document["status"] else {}
    return document | status | ({"policies": bodies} if bodies else {})


class _Names:
    """Generates file names that differ also on a case-insensitive file system."""

    def __init__(self) -> None:
        self._taken: set[tuple[str, str]] = set()

    def of(self, found: Object) -> str:
        name = re.sub(r"[^A-Za-z0-9_.-]", "-", found.id)
        if (found.kind.name, name.lower()) in self._taken:
            name += f".{hashlib.sha256(found.id.encode()).hexdigest()[:8]}"
        self._taken.add((found.kind.name, name.lower()))
        return name


def _write(path: Path, *documents: Document) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml_form.dump(*documents), encoding="utf-8")


def _files(folder: Path, faults: list[Fault]) -> list[Path]:
    """The YAML files of a folder, sorted by path; a path that may hold YAML and cannot be read is a fault.

    An unreadable path is never skipped: `apply --prune` would retire the agents that it declares.
    """
    files = []
    pending = [folder]
    while pending:
        path = pending.pop()
        try:
            mode = path.stat().st_mode
            if stat.S_ISREG(mode):
                files += [path] if path.suffix in ENDINGS else []
            elif stat.S_ISDIR(mode) and (path == folder or not path.is_symlink()):
                pending += [inside for inside in path.iterdir() if not inside.name.startswith(".")]
            elif stat.S_ISDIR(mode):
                faults.append(_path_fault(path, "is a symlink to a folder: only symlinks to files are followed"))
            elif path.suffix in ENDINGS:
                faults.append(_path_fault(path, "is not a regular file"))
        except FileNotFoundError:
            faults.append(_path_fault(path, "is a broken symlink"))
        except OSError as error:
            faults.append(_path_fault(path, f"cannot be read: {error.strerror}"))
    return sorted(files)


def _path_fault(path: Path, message: str) -> Fault:
    return Fault(path, 1, Problem("", message))


def _objects(file: Path, faults: list[Fault]) -> Iterator[tuple[Object, int]]:
    try:
        for document in yaml_form.documents(_text(file)):
            problems = document.problems
            found = None if problems else _object(document.value, problems)
            wrong = [Fault(file, document.line_of(problem.path), problem) for problem in problems]
            faults.extend(sorted(wrong, key=lambda fault: fault.line))
            if found is not None:
                yield found, document.line_of(found.kind.id_field)
    except YamlFormError as error:
        faults.append(Fault(file, error.line, Problem("", str(error))))


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise YamlFormError(1, f"larger than {MAX_BYTES} bytes")
        return raw.decode()
    except UnicodeDecodeError as error:
        raise YamlFormError(raw.count(b"\n", 0, error.start) + 1, "not UTF-8") from None
    except OSError as error:
        raise YamlFormError(1, f"cannot be read: {error.strerror}") from None


def _object(value: Any, problems: Problems) -> Object | None:
    if not isinstance(value, dict):
        problems.append(Problem("", "is not an object with a `kind`"))
        return None
    kind = KINDS.get(str(value.get("kind")))
    if kind is None:
        problems.append(Problem("kind", f"`{value.get('kind')}` is not one of {', '.join(KINDS)}"))
        return None
    try:
        document = kind.read({name: item for name, item in value.items() if name != "kind"})
    except InvalidRecordError as error:
        problems.extend(error.problems)
        return None
    return Object(kind, document[kind.id_field], document)
