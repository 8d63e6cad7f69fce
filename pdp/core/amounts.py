"""Amounts in words: of money and of time."""

from math import ceil


def dollars(micros: int) -> str:
    """An amount as people write it: cents, or all six places where there is less than a cent."""
    return f"{micros / 1_000_000:.2f} USD" if micros % 10_000 == 0 else f"{micros / 1_000_000:.6f} USD"


def tenths(seconds: float) -> float:
    """Seconds to one decimal place, rounded up, so that who waits as long as told has waited long enough."""
    return ceil(seconds * 10) / 10
