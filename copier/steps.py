"""Exact rounding onto a step: volumes onto lots, prices onto ticks."""

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_DOWN, Decimal

_ONE = Decimal(1)


def floor_to(value: Decimal, step: Decimal) -> Decimal:
    """Return the largest multiple of `step` that is not above `value`: 0.29 on 0.01 is 29 steps."""
    return (value / step).quantize(_ONE, ROUND_FLOOR) * step


def ceil_to(value: Decimal, step: Decimal) -> Decimal:
    """Return the smallest multiple of `step` that is not below `value`."""
    return (value / step).quantize(_ONE, ROUND_CEILING) * step


def nearest_to(value: Decimal, step: Decimal) -> Decimal:
    """Return the multiple of `step` nearest to `value`, the smaller of two equally near."""
    return (value / step).quantize(_ONE, ROUND_HALF_DOWN) * step


def is_on(value: Decimal, step: Decimal) -> bool:
    """Return whether `value` is a multiple of `step`."""
    return value % step == 0


def plain(value: Decimal) -> str:
    """Return a number as people write it: no exponent, no trailing zeros, at most 8 decimals."""
    text = str(value)
    if "E" in text:
        text = f"{value:f}"
    whole, dot, decimals = text.partition(".")
    if not dot:
        return text
    if len(decimals) > 8:
        whole, _, decimals = f"{value:.8f}".partition(".")
    decimals = decimals.rstrip("0")
    if decimals:
        return f"{whole}.{decimals}"
    return "0" if whole == "-0" else whole
