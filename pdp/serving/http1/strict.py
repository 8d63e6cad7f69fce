"""h11 with limits on what a request costs to parse."""

from typing import Any

import h11

MAX_HEAD_BYTES = 16 * 1024
MAX_HEAD_LINES = 128
FREE_PIECES = 250
MIN_PIECE_BYTES = 256
"""The smallest average size of the pieces of a body after the first 250, because each piece costs the same."""


class Strict(h11.Connection):
    """Accepts only requests with unambiguous framing and a bounded parsing cost."""

    refusal = 400
    """The HTTP status for the request that cannot be read."""
    _pieces = 0
    _bytes = 0

    def next_event(self) -> Any:
        """h11's next event, or `RemoteProtocolError`; `refusal` is then its status."""
        try:
            return self._checked(super().next_event())
        except h11.RemoteProtocolError as error:
            self.refusal = error.error_status_hint
            raise

    def _checked(self, event: Any) -> Any:
        if isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
            if {b"content-length", b"transfer-encoding"} <= {name for name, _ in event.headers}:
                raise h11.RemoteProtocolError("the request has both Content-Length and Transfer-Encoding")
        elif isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > FREE_PIECES + self._bytes / MIN_PIECE_BYTES:
                raise h11.RemoteProtocolError("the body comes in too many pieces")
        elif event is h11.NEED_DATA and self._head_lines() > MAX_HEAD_LINES:
            raise h11.RemoteProtocolError("the request has too many headers", error_status_hint=431)
        return event

    def _head_lines(self) -> int:
        return self.trailing_data[0].count(b"\n") if self.their_state is h11.IDLE else 0
