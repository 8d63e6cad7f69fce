"""What was in a pod before the injection, and is not there after it."""

from collections.abc import Iterator
from typing import Any

from pdp.injector.annotations import STATUS
from pdp.injector.container import NAME


def lost(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """The path of each value that is gone or changed; the items of a list must keep their order.

    The injector's own are left out: its container, and the status.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        for name, value in before.items():
            if name != STATUS:
                yield from lost(value, after.get(name), f"{path}.{name}")
    elif isinstance(before, list) and isinstance(after, list):
        yield from _lost_items(before, after, path)
    elif before is not None and before != after:
        yield path


def _lost_items(before: list[Any], after: list[Any], path: str) -> Iterator[str]:
    rest = iter([item for item in after if not _is_ours(item)])
    for index, item in enumerate(item for item in before if not _is_ours(item)):
        if not any(not list(lost(item, other)) for other in rest):
            yield f"{path}[{index}]"


def _is_ours(item: Any) -> bool:
    return isinstance(item, dict) and item.get("name") == NAME
