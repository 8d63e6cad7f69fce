"""What both clients are told: where the sidecar is, how long a call takes at most, and what holds without an answer."""

import os
from dataclasses import dataclass
from typing import Literal

FailMode = Literal["closed", "open"]

_MODES: dict[str, FailMode] = {"closed": "closed", "open": "open"}

DEFAULT_ADDRESS = "127.0.0.1:50051"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a client, all of them checked; `timeout` in seconds."""

    address: str
    fail_mode: FailMode
    timeout: float


def read(pdp_address: str | None, fail_mode: FailMode | None, timeout: float) -> Settings:
    """Settings from the arguments of a client, and from the environment where an argument is None.

    `ValueError` names the wrong one.
    """
    if not timeout > 0:
        raise ValueError(f"`timeout`: `{timeout}` is not above 0")
    address = pdp_address or os.environ.get("PDP_ADDRESS") or DEFAULT_ADDRESS
    if fail_mode is not None:
        return Settings(address, _checked("fail_mode", fail_mode), timeout)
    return Settings(address, _checked("PDP_FAIL_MODE", os.environ.get("PDP_FAIL_MODE") or "closed"), timeout)


def _checked(name: str, mode: str) -> FailMode:
    if mode not in _MODES:
        raise ValueError(f"`{name}`: `{mode}` is not one of {', '.join(_MODES)}")
    return _MODES[mode]
