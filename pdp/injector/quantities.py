"""Quantities of CPU and memory, as Kubernetes writes them."""

import re
from decimal import Decimal

MAX_CHARACTERS = 24
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)([a-zA-Z]*)")
_CPU = {"": 1000, "m": 1}
_BINARY = {"Gi": 1 << 30, "Mi": 1 << 20, "Ki": 1 << 10}
_DECIMAL = {"G": 10**9, "M": 10**6, "k": 10**3}
_MEMORY = {"": 1} | _BINARY | _DECIMAL


def read_cpu(text: str) -> int:
    """A CPU quantity in thousandths of a core; `ValueError` says what it should be."""
    return _read(text, _CPU, "a CPU quantity such as 250m or 0.5")


def read_memory(text: str) -> int:
    """A memory quantity in bytes; `ValueError` says what it should be."""
    return _read(text, _MEMORY, "a memory quantity such as 128Mi")


def write_cpu(millis: int) -> str:
    """The form that the API server gives a CPU quantity, so that a second review sees no change."""
    return f"{millis}m" if millis % 1000 else str(millis // 1000)


def write_memory(size: int) -> str:
    """The form that the API server gives a memory quantity."""
    for suffix, unit in (*_BINARY.items(), *_DECIMAL.items()):
        if size % unit == 0:
            return f"{size // unit}{suffix}"
    return str(size)


def _read(text: str, units: dict[str, int], what: str) -> int:
    match = _QUANTITY.fullmatch(text) if len(text) <= MAX_CHARACTERS and text.isascii() else None
    if match is None or match[2] not in units:
        raise ValueError(f"is not {what}")
    number = Decimal(match[1]) * units[match[2]]
    if number != int(number):
        raise ValueError(f"is not {what}: it is more precise than Kubernetes allows")
    return int(number)
