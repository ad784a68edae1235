import numpy as np
import pytest

from fedutils import adaptive, anatomy

LAYOUT = [(60, 50), (50,)]


@pytest.fixture
def vectors():
    return np.random.default_rng(0).standard_normal((3, 3050)).astype(np.float32)


def test_parts_add_up_and_follow_the_number_of_nonzeros(vectors):
    codecs = {
        "context": adaptive.codec(LAYOUT, step=1.0),
        "pool": adaptive.pooled(LAYOUT, step=1.0, size=512),
    }
    table = anatomy.table(codecs, vectors, LAYOUT, nonzeros=(50, 100))
    assert list(table.index) == [
        "context, 50 nonzeros",
        "pool, 50 nonzeros",
        "context, 100 nonzeros",
        "pool, 100 nonzeros",
    ]
    # With systematic or independent rounding, an error is about the step times the sum of sizes.
    steps = np.abs(vectors[0]).sum() / np.array([50, 50, 100, 100])
    expected = steps * np.abs(vectors[0]).sum() / np.square(vectors[0]).sum()
    assert table.pop("NMSE").tolist() == pytest.approx(expected, rel=0.3)
    assert (table >= 0).all(axis=None)
    assert (table.sum(axis=1) % 8 == 0).all()
    # A bit a sign; and a position in a pool of 512 takes fewer bits than one of 3,050.
    assert table["Signs"].tolist() == pytest.approx([50, 50, 100, 100], rel=0.1)
    assert (
        table.loc["pool, 50 nonzeros", "Positions"]
        < 0.75 * (table.loc["context, 50 nonzeros", "Positions"])
    )
