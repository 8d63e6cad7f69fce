"""Amounts of money and of time as text."""

from math import ceil


def dollars(micros: int) -> str:
    """An amount in US dollars: to the cent, or to six places if it has fractions of a cent."""
    return f"{micros / 1_000_000:.2f} USD" if micros % 10_000 == 0 else f"{micros / 1_000_000:.6f} USD"


def tenths(seconds: float) -> float:
    """Seconds to one decimal place, rounded up: a caller that waits this long has waited long enough."""
    return ceil(seconds * 10) / 10
