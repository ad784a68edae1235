import matplotlib
import numpy as np
import pytest
from scipy.optimize import minimize

from fedutils import looks

matplotlib.use("agg")


def test_every_recipe_has_a_look_of_its_own():
    from fedutils import recipes, standings

    names = list(recipes.RECIPES)
    found = looks.of(names)
    assert len({tuple(look.values()) for look in found.values()}) == len(names)
    assert looks._UNKNOWN not in {look["color"] for look in found.values()}
    assert {name for name in names if standings.is_own(name)} == set(looks.OWN)
    # Wherever it is drawn, and beside whichever others.
    assert looks.of(["qsgd", "adaptive"])["adaptive"] == found["adaptive"]
    for i in range(20):  # with other parameters too
        other = f"qsgd@levels={i}"
        look = looks.of([*names, "mine", other])[other]
        assert look == looks.of([other])[other] != found["qsgd"]


def test_recipes_of_others_are_told_apart():
    found = looks.of(["mine", "none", "yours"])
    assert len({tuple(look.values()) for look in found.values()}) == 3


def test_other_parameters_have_the_colour_of_their_recipe_and_are_of_its_kind():
    found = looks.of(["top-k", "top-k@fraction=0.1", "top-k@fraction=0.2"])
    assert len({look["color"] for look in found.values()}) == 1
    assert found["top-k"]["marker"] not in [found[name]["marker"] for name in list(found)[1:]]
    assert looks.kind("top-k@fraction=0.1") == looks.kind("random-k") == "sparsification"
    assert looks.kind("adaptive@size=512") == looks.kind("default") == "this project's"
    assert looks.kind("none") == "uncompressed" and looks.kind("mine") == "others"
    assert list(looks.kinds(["top-k@fraction=0.1"])) == ["sparsification"]


@pytest.mark.parametrize("seed", range(5))
def test_spread_moves_labels_as_little_as_can_be(seed):
    rng = np.random.default_rng(seed)
    wanted = np.sort(rng.random(8))
    found = looks.spread(wanted, 0.1)
    assert (np.diff(found) >= 0.1 - 1e-9).all()
    constraint = {"type": "ineq", "fun": lambda x: np.diff(x) - 0.1}
    best = minimize(lambda x: ((x - wanted) ** 2).sum(), found + 0.01, constraints=constraint)
    assert ((found - wanted) ** 2).sum() <= best.fun + 1e-6


def test_spread_leaves_alone_what_is_apart():
    np.testing.assert_allclose(looks.spread(np.array([0.0, 1.0, 3.0]), 0.5), [0.0, 1.0, 3.0])


def test_figures_need_no_fonts_of_the_machine(monkeypatch, caplog):
    """Also where matplotlib's cache of fonts, made elsewhere, does not know its own."""
    import matplotlib.pyplot as plt
    from matplotlib import font_manager

    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    looks.style()
    figure, axes = plt.subplots()
    axes.plot([1, 1000], [1, 1000])
    axes.set(xscale="log", yscale="log")
    figure.canvas.draw()
    plt.close(figure)
    assert not caplog.records
    own = matplotlib.get_data_path()
    assert all(entry.fname.startswith(own) for entry in font_manager.fontManager.ttflist)


def test_bits_are_written_with_binary_prefixes():
    assert looks.bits_formatter(2.0**30, 0) == "1 Gibit"
    assert looks.bits_formatter(512.0, 0) == "512 bit"
    assert looks.bits_formatter(2.0**41, 0) == "2 Tibit"
