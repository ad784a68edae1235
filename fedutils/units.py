"""Bits as people read them."""

from __future__ import annotations


def format_bits(bits: float, space: str = " ") -> str:
    """Formats a number of bits as the study does.

    Args:
        bits: A number of bits; 1 Kibit = 2^10 bit, 1 Mibit = 2^20 bit, 1 Gibit = 2^30 bit.
        space: What stands before the unit; the study has nothing there.

    Returns:
        For example `507.62 Mibit` or `1.43 Gibit`.
    """
    for unit, digits in (("bit", 0), ("Kibit", 2), ("Mibit", 2)):
        # The study prints 1015.24Mibit and 1.49Gibit: the next unit begins at 1024, as printed.
        if round(bits, digits) < 1024:
            return f"{bits:.{digits}f}{space}{unit}"
        bits /= 1024
    return f"{bits:.2f}{space}Gibit"


def format_factor(ratio: float) -> str:
    """Writes how many times fewer: three digits, or all before the point if there are more."""
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.3g}"
