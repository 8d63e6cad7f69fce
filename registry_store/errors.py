"""What goes wrong in the registry, as values of meaning; the shells give them their HTTP statuses and gRPC codes."""

from math import ceil


class RegistryError(Exception):
    """A request that cannot be carried out; the message is for the one who sent it."""


class NotFound(RegistryError):  # noqa: N818 - it says what is so
    """There is no such record."""


class Conflict(RegistryError):  # noqa: N818 - it says what is so
    """The record's present state forbids it."""


class StaleTag(RegistryError):  # noqa: N818 - it says what is so
    """The record has changed since the caller read it."""


class NotAuthenticated(RegistryError):  # noqa: N818 - it says what is so
    """No key, or one that is unknown, expired or revoked."""


class LapsedKey(NotAuthenticated):
    """A key that was right once: revoked or expired."""


class TooManyFailures(RegistryError):  # noqa: N818 - it says what is so
    """One more wrong key after too many from there; `wait` says for how many seconds not to try again."""

    def __init__(self, wait: float) -> None:
        super().__init__(f"too many wrong keys: wait {ceil(wait)} s")
        self.wait = wait


class NotAllowed(RegistryError):  # noqa: N818 - it says what is so
    """A valid key whose role does not cover the request."""


class CannotStart(Exception):  # noqa: N818 - said in one line to the one who starts the program
    """A setting is wrong, a port is taken or the database is out of reach."""
