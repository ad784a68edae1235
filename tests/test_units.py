import pytest

from fedutils.units import format_bits


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (0, "0bit"),
        (1023, "1023bit"),
        (1024, "1.00Kibit"),
        (1_663_370 * 32, "50.76Mibit"),
        (1023.4, "1023bit"),
        (1023.5, "1.00Kibit"),
        (1023.994 * 2**10, "1023.99Kibit"),
        (2**20 - 1, "1.00Mibit"),
        (1023.994 * 2**20, "1023.99Mibit"),
        (1023.999 * 2**20, "1.00Gibit"),
        (2**30 - 1, "1.00Gibit"),
        (2**30, "1.00Gibit"),
        (5000 * 2**30, "5000.00Gibit"),
    ],
)
def test_units_are_powers_of_1024(bits, text):
    assert format_bits(bits) == text
