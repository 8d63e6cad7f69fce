"""Request bodies: JSON of bounded size, checked with the tables of fields."""

import asyncio
from typing import Any

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from pdp.core.fields import Field
from pdp.core.json import strict_json
from pdp.core.records import PROSE
from pdp.serving.requests import read_body
from registry_store.documents import lower_first, read_values

MAX_BYTES = 1024 * 1024
MAX_VALUES = 50_000
"""More than a record can have. Parsing blocks the interpreter, for a time that grows with the number of values."""
SMALL_BYTES = 4096
"""Up to this size, parsing is faster than waking a thread."""

REASON_BODY: dict[str, Field] = {"reason": Field(PROSE, "", about="Reason, kept in the activity log")}


async def read_json(request: Request, max_bytes: int = MAX_BYTES, max_values: int = MAX_VALUES) -> Any:
    """Reads the body as JSON; 413 above `max_bytes` or `max_values`, 400 if it is not JSON."""
    raw = await read_bounded(request, max_bytes)
    if raw.count(b",") > max_values:
        raise HTTPException(413, f"the body has more than {max_values} values")
    try:
        return strict_json.loads(raw) if len(raw) <= SMALL_BYTES else await asyncio.to_thread(strict_json.loads, raw)
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON: {lower_first(str(error))}") from None


async def read_bounded(request: Request, max_bytes: int = MAX_BYTES) -> bytes:
    """Reads the body, once for all tries of a request; 413 above `max_bytes`."""
    kept: bytes | None = getattr(request.state, "body", None)
    if kept is not None:
        return kept
    try:
        request.state.body = body = await read_body(request, max_bytes)
    except ClientDisconnect:
        raise HTTPException(400, "the body ended early") from None
    return body


async def read_reason(request: Request) -> str:
    """Reads the `reason` of an optional body."""
    reason: str = read_values(await read_optional_json(request), REASON_BODY)["reason"]
    return reason


async def read_optional_json(request: Request) -> Any:
    """Reads the body as JSON; an empty object if there is no body."""
    return await read_json(request) if await read_bounded(request) else {}
