"""Whole numbers as protobuf writes them."""

from functools import lru_cache


@lru_cache(maxsize=4096)  # most are lengths of records and what is in them, and a loop takes five times as long
def varint(number: int) -> bytes:
    """A whole number from 0 on, as protobuf writes it (base 128, the lowest digits first)."""
    if number < 1 << 7:
        return bytes((number,))
    if number < 1 << 14:
        return bytes((number & 0x7F | 0x80, number >> 7))
    return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80)) + varint(number >> 14)
