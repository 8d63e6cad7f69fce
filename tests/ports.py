"""Free ports of this machine for programs with fixed ports."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved() -> Iterator[str]:
    """An address on which nobody listens until the test has somebody do so, also once more after that has ended.

    It is bound here all the while, so that the system gives its port to no other program, as any port or for a call.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"
