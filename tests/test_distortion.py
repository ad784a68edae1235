import numpy as np
import pandas as pd
import pytest
import scipy.stats

from fedutils import adaptive, distortion, recipes
from fedutils.updates import Updates

LAYOUT = [(60, 50), (50,)]
VECTORS = np.random.default_rng(0).standard_normal([2, 3050]).astype(np.float32)


def test_identity_costs_what_it_must_and_errs_nothing():
    codec = recipes.codecs(LAYOUT)["identity"]
    for rate, nmse in distortion.measure(codec, VECTORS):
        assert rate == 32 + 8 * codec.header_bytes / 3050
        assert nmse == 0.0


def test_table_has_a_row_a_recipe_and_update():
    kept = Updates(pd.DataFrame({"round": [1, 5], "client": ["a", "b"]}), VECTORS, LAYOUT)
    chosen = {name: recipes.codecs(LAYOUT)[name] for name in ("eden1", "eden4")}
    table = distortion.table(chosen, kept)
    assert table[["recipe", "round", "client"]].values.tolist() == [
        ["eden1", 1, "a"],
        ["eden1", 5, "b"],
        ["eden4", 1, "a"],
        ["eden4", 5, "b"],
    ]
    # Gaussian numbers at a fixed width: nobody beats Shannon.
    assert (table["nmse"] >= distortion.gaussian_bound(table["bits_per_parameter"])).all()


def test_sweep_trades_rate_for_distortion():
    sweep = distortion.sweep(recipes.codecs(LAYOUT)["context"], VECTORS[0], [0.5, 1.0, 2.0])
    assert sweep["step"].tolist() == [0.5, 1.0, 2.0]
    assert sweep["bits_per_parameter"].is_monotonic_decreasing
    assert sweep["nmse"].is_monotonic_increasing


@pytest.mark.parametrize("build", [adaptive.pooled, adaptive.codec])
def test_codecs_with_vectors_among_their_parameters_are_measured(build):
    codec = build(LAYOUT, step=0.1)
    assert np.ndim(codec.default_params()["lines"]) == 1
    for rate, nmse in distortion.measure(codec, VECTORS):
        assert rate > 0 and np.isfinite(nmse)
    sweep = distortion.sweep(codec, VECTORS[0], [0.1, 1.0])
    assert sweep["bits_per_parameter"].is_monotonic_decreasing


def test_gaussian_bound():
    np.testing.assert_allclose(distortion.gaussian_bound([0, 1, 2]), [1, 1 / 4, 1 / 16])


def test_entropy_curve_against_scipy():
    curve = distortion.entropy_curve(VECTORS[0], [0.3, 3.0])
    for row in curve.itertuples():
        symbols = np.rint(VECTORS[0].astype(np.float64) / (row.step * VECTORS[0].std()))
        _, counts = np.unique(symbols, return_counts=True)
        expected = scipy.stats.entropy(counts, base=2)
        assert row.entropy_bits_per_parameter == pytest.approx(expected, rel=1e-3)
    # Fine uniform rounding of a Gaussian errs step^2 / 12 of its variance.
    assert curve["nmse"][0] == pytest.approx(0.3**2 / 12, rel=0.05)
