"""A repeat is known by what it asks, however it comes."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pdp import wire
from pdp.core.action import Action
from pdp.wire.digests import DIGEST_BYTES
from pdp.wire.fingerprints import MAX_KEPT_BYTES
from tests.pdp.actions import actions, by_connect, by_grpc, by_json


@given(actions, actions, st.booleans())
def test_a_request_is_the_same_if_its_action_is(one: dict[str, Any], other: dict[str, Any], alike: bool) -> None:
    """By any endpoint, whether its bytes or its digest were kept."""
    if alike:
        other = one
    first, second = by_grpc(one), by_json(other)
    is_same = wire.digest(first.action) == wire.digest(second.action)
    assert is_same or not alike
    for kept in (wire.fingerprint(first), wire.digest(first.action)):
        for repeat in (second, by_connect(other), by_grpc(other), second._replace(raw=b"")):
            assert wire.asks_the_same(kept, repeat) == is_same


def test_little_is_kept_of_a_long_request() -> None:
    """So that the answers of ten minutes stay within their memory."""
    for length in range(MAX_KEPT_BYTES - 100, MAX_KEPT_BYTES + 1):
        request = written(Action("billing-reader", "data.read", "r" * length))
        kept = wire.fingerprint(request)
        assert len(kept) == (len(request.raw) if len(request.raw) <= MAX_KEPT_BYTES else DIGEST_BYTES)


def test_a_request_as_long_as_a_digest_is_no_digest() -> None:
    """Its digest is kept, and tells it from others."""
    action = Action("billing-reader", "data.read", "r")
    request = written(action)
    assert len(request.raw) == DIGEST_BYTES
    assert wire.fingerprint(request) == wire.digest(action)
    assert wire.asks_the_same(wire.fingerprint(request), request)
    assert not wire.asks_the_same(wire.fingerprint(request), written(replace(action, resource="s")))


def written(action: Action) -> wire.Request:
    request = wire.Request(action)
    return request._replace(raw=wire.write_request(request))
