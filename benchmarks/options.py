"""What a run of the benchmarks was asked for."""

from typing import NamedTuple


class Options(NamedTuple):
    """How often each row is measured, decisions before memory is read, and the commit to compare with, if any."""

    rounds: int = 5
    decisions: int = 20_000
    base: str | None = None

    def command(self, name: str) -> str:
        """The command that measures the same again."""
        given = [
            f"--{field} {value}" for field, value in self._asdict().items() if value != self._field_defaults[field]
        ]
        return " ".join(["python -m benchmarks", name, *given])
