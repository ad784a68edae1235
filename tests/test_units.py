import pytest

from fedutils.units import format_bits


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (0, "0 bit"),
        (1023, "1023 bit"),
        (1024, "1.00 Kibit"),
        (1_663_370 * 32, "50.76 Mibit"),
        (1023.4, "1023 bit"),
        (1023.5, "1.00 Kibit"),
        (1023.994 * 2**10, "1023.99 Kibit"),
        (2**20 - 1, "1.00 Mibit"),
        (1023.994 * 2**20, "1023.99 Mibit"),
        (1023.999 * 2**20, "1.00 Gibit"),
        (2**30 - 1, "1.00 Gibit"),
        (2**30, "1.00 Gibit"),
        (5000 * 2**30, "5000.00 Gibit"),
    ],
)
def test_units_are_powers_of_1024(bits, text):
    assert format_bits(bits) == text
