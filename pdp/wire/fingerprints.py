"""What is kept of a request to know a repeat of it: its bytes if it is short, else the digest of its action.

A digest takes as long as a decision, and most repeats are sent again as they were.
"""

from pdp.v1 import decision_pb2 as pb
from pdp.wire.digests import DIGEST_BYTES, digest
from pdp.wire.requests import Request, parse, read_request

MAX_KEPT_BYTES = 512


def fingerprint(request: Request) -> bytes:
    """The bytes to keep of a request."""
    size = len(request.raw)
    return request.raw if 0 < size <= MAX_KEPT_BYTES and size != DIGEST_BYTES else digest(request.action)


def asks_the_same(kept: bytes, request: Request) -> bool:
    """Whether a request is about the same action as the one with this fingerprint, whatever endpoint each came by."""
    if kept == request.raw:
        return True
    first = kept if len(kept) == DIGEST_BYTES else digest(read_request(parse(pb.EvaluateRequest, kept)).action)
    return first == digest(request.action)
