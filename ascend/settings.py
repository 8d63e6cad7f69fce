"""What both clients are told: where the sidecar is, how long a call takes at most, and what holds without an answer."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ascend.calls import addresses
from ascend.calls.addresses import HttpAddress
from ascend.calls.tls import Files

FailMode = Literal["closed", "open"]

_MODES: dict[str, FailMode] = {"closed": "closed", "open": "open"}

DEFAULT_ADDRESS = "127.0.0.1:50051"
TLS_VARIABLES = ("PDP_CA", "PDP_CERT", "PDP_KEY")


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a client, all of them checked; `timeout` in seconds, a text as `address` is one of gRPC."""

    address: str | HttpAddress
    fail_mode: FailMode
    timeout: float
    tls: Files | None = None


def read(
    pdp_address: str | None, fail_mode: FailMode | None, timeout: float, tls: Sequence[str | None] = (None, None, None)
) -> Settings:
    """Settings from the arguments of a client, and from the environment where an argument is None.

    `tls` is `pdp_ca`, `pdp_cert` and `pdp_key`. `ValueError` names the wrong one.
    """
    if not timeout > 0:
        raise ValueError(f"`timeout`: `{timeout}` is not above 0")
    address = _address(pdp_address)
    ca, cert, key = (one or os.environ.get(name) or None for one, name in zip(tls, TLS_VARIABLES, strict=True))
    files = _tls(address, ca, cert, key)
    if fail_mode is not None:
        return Settings(address, _checked("fail_mode", fail_mode), timeout, files)
    return Settings(address, _checked("PDP_FAIL_MODE", os.environ.get("PDP_FAIL_MODE") or "closed"), timeout, files)


def _address(argument: str | None) -> str | HttpAddress:
    """The argument, else the address of the environment; that over HTTP, which is quicker, if there are two."""
    for name, text in (
        ("pdp_address", argument),
        ("PDP_HTTP_ADDRESS", os.environ.get("PDP_HTTP_ADDRESS")),
        ("PDP_ADDRESS", os.environ.get("PDP_ADDRESS")),
    ):
        if text and (addresses.is_http(text) or name == "PDP_HTTP_ADDRESS"):
            try:
                return addresses.read(text)
            except ValueError as error:
                raise ValueError(f"`{name}`: {error}") from None
        if text:
            return text
    return DEFAULT_ADDRESS


def _tls(address: str | HttpAddress, ca: str | None, cert: str | None, key: str | None) -> Files | None:
    """The files of TLS; None for a Unix socket, which needs none, and where none are given."""
    if ca is None and (cert is not None or key is not None):
        raise ValueError("`pdp_ca` is required with `pdp_cert` and `pdp_key`")
    if isinstance(address, HttpAddress):
        if address.is_tls and ca is None:
            raise ValueError(f"`pdp_ca` is required with `{address}`")
        if ca is not None and not (address.is_tls or address.path):
            raise ValueError(f"`pdp_ca` requires `https://`, but the address is `{address}`")
        return Files(ca, cert, key) if ca is not None and address.is_tls else None
    return None if ca is None or address.startswith("unix:") else Files(ca, cert, key)


def _checked(name: str, mode: str) -> FailMode:
    if mode not in _MODES:
        raise ValueError(f"`{name}`: `{mode}` is not one of {', '.join(_MODES)}")
    return _MODES[mode]
