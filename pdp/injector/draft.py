"""A pod as it is patched: each change is made in a copy and recorded as an operation of a JSON patch (RFC 6902)."""

import copy
from typing import Any

from pdp.injector.verdicts import Operation

Path = tuple[str | int, ...]


class Draft:
    """A copy of a pod, and the operations that make it from the original."""

    def __init__(self, pod: dict[str, Any]) -> None:
        self.pod = copy.deepcopy(pod)
        self.operations: list[Operation] = []

    def put(self, path: Path, value: Any) -> None:
        """Set the member of an object, or replace the item of a list."""
        holder, last = self._holder(path), path[-1]
        there = isinstance(last, int) or last in holder
        holder[last] = copy.deepcopy(value)
        self._record("replace" if there else "add", path, value=value)

    def insert(self, path: Path, index: int, value: Any) -> None:
        """Insert an item into the list at `path`, which is made if there is none."""
        items = self._list(path)
        if items is None:
            self.put(path, [value])
            return
        items.insert(index, copy.deepcopy(value))
        self._record("add", (*path, index), value=value)

    def append(self, path: Path, value: Any) -> None:
        """Append an item to the list at `path`, which is made if there is none."""
        items = self._list(path)
        self.insert(path, 0 if items is None else len(items), value)

    def set_member(self, path: Path, name: str, value: str) -> None:
        """Set a member of the object at `path`, which is made if there is none."""
        found = self._holder(path).get(path[-1])
        if not found:
            self.put(path, {name: value})
        elif found.get(name) != value:
            self.put((*path, name), value)

    def move_to_front(self, path: Path, index: int) -> None:
        """Make an item of a list its first."""
        items = self._list(path)
        if items is not None and index:
            items.insert(0, items.pop(index))
            self._record("move", (*path, 0), **{"from": _pointer((*path, index))})

    def _list(self, path: Path) -> list[Any] | None:
        found: list[Any] | None = self._holder(path).get(path[-1])
        return found

    def _holder(self, path: Path) -> Any:
        value: Any = self.pod
        for part in path[:-1]:
            value = value[part]
        return value

    def _record(self, operation: str, path: Path, **more: Any) -> None:
        self.operations.append({"op": operation, "path": _pointer(path)} | copy.deepcopy(more))


def _pointer(path: Path) -> str:
    """RFC 6901."""
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)
