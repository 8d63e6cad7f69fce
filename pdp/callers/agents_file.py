"""The file of `--caller-agents`: which agents the names in client certificates may ask for."""

from pathlib import Path

from pdp.core.action import AGENT_GLOB
from pdp.core.fields import quote
from pdp.serving.tls.name_files import NameFile, Plain

MAX_AGENTS = 1000


class CallerAgents(NameFile[tuple[str, ...]]):
    """Agent ids, or globs of them, by name; `FileError` if the file cannot be used at first."""

    def __init__(self, path: Path) -> None:
        super().__init__("caller-agents", path, _entry)


def _entry(value: Plain) -> tuple[str, ...]:
    """Reads one entry; `ValueError` says what is wrong."""
    if not isinstance(value, list) or len(value) > MAX_AGENTS:
        raise ValueError(f"is not a list of at most {MAX_AGENTS} agents")
    for agent in value:
        if not isinstance(agent, str) or not AGENT_GLOB.fullmatch(agent):
            raise ValueError(f"{quote(agent)} is not an agent id or a glob")
    return tuple(str(agent) for agent in value)
