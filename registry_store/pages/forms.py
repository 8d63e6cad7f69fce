"""Forms that browsers send: bounded in size and number of fields, and read by tables of fields."""

from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from fastapi import HTTPException, Request

from pdp.core.errors import InvalidRecordError, Problem
from pdp.core.fields import Field
from pdp.core.kinds import Text
from registry_store.access.sessions import MAX_CHARACTERS
from registry_store.documents import read_values
from registry_store.rest.exchange.bodies import read_bounded

MEDIA_TYPE = "application/x-www-form-urlencoded"
MAX_BYTES = 64 * 1024
"""A comment of 4,096 characters takes at most 48 KiB."""
MAX_FIELDS = 10
CSRF_TOKEN = Field(Text(MAX_CHARACTERS), required=True)
"""The form token: only a page of this store, sent to this browser, knows it."""


async def read_form(request: Request, fields: Mapping[str, Field]) -> dict[str, Any]:
    """The fields of a form; 415 if it is none, 413 if it is too large, 400 if it is malformed, 422 by its fields."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise HTTPException(415, f"the body is not a form: its Content-Type is not {MEDIA_TYPE}")
    raw = await read_bounded(request, MAX_BYTES)
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError:
        raise HTTPException(400, f"the body is not a form of at most {MAX_FIELDS} fields in UTF-8") from None
    repeated = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
    if repeated:
        raise InvalidRecordError([Problem(name, "is given more than once") for name in repeated])
    # A browser sends each line break of a text area as CR LF.
    return read_values({name: text.replace("\r\n", "\n") for name, text in pairs}, fields)
