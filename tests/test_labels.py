import itertools

import matplotlib
import numpy as np
import pytest

from fedutils import labels, looks

matplotlib.use("agg")

import matplotlib.pyplot as plt


@pytest.fixture
def axes():
    looks.style()
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    yield axes
    plt.close(figure)


def boxes(axes, margin=0.0):
    axes.figure.canvas.draw()
    found = {text.get_text(): matplotlib.text.Text.get_window_extent(text) for text in axes.texts}
    return {name: box.padded(-margin) for name, box in found.items()}


@pytest.mark.parametrize("seed", range(3))
def test_names_are_clear_of_points_names_and_edges(axes, seed):
    spots = 0.3 + 0.4 * np.random.default_rng(seed).random((12, 2))
    points = {f"recipe-{i}": tuple(spot) for i, spot in enumerate(spots)}
    axes.plot(*spots.T, "o", markersize=7)
    labels.label_points(axes, points)
    found = boxes(axes)
    assert sorted(found) == sorted(points)
    for one, other in itertools.combinations(found.values(), 2):
        assert not one.overlaps(other)
    inside = axes.get_window_extent()
    for box in found.values():
        assert inside.x0 <= box.x0 and box.x1 <= inside.x1
        assert not any(box.contains(*axes.transData.transform(spot)) for spot in spots)


def test_names_keep_off_curves_and_the_legend(axes):
    x = np.linspace(0, 1, 30)
    axes.plot(x, x, label="a curve")
    axes.plot([0.5, 0.1], [0.5, 0.2], "o", label="two points")
    legend = axes.legend(loc="lower left")
    labels.label_points(axes, {"on the curve": (0.5, 0.5), "at the legend": (0.1, 0.2)})
    found = boxes(axes, margin=0.5)
    curve = axes.transData.transform(np.column_stack([np.linspace(0, 1, 500)] * 2))
    for box in found.values():
        assert not any(box.contains(*at) for at in curve)
        assert not box.overlaps(legend.get_window_extent())


def test_names_have_leaders_from_their_points(axes):
    crowd = {f"crowded {i}": (0.5 + 0.01 * i, 0.5) for i in range(4)}
    labels.label_points(axes, {"alone": (0.1, 0.9)} | crowd, {"alone": "red"}, ["alone"])
    texts = {text.get_text(): text for text in axes.texts}
    assert texts["alone"].get_color() == "red" and texts["alone"].get_weight() == "bold"
    leaders = [line for line in axes.get_lines() if line.get_linestyle() == "-"]
    ends = {tuple(np.round(line.get_xydata()[-1], 6)) for line in leaders}
    assert {(round(x, 6), y) for x, y in crowd.values()} <= ends


def test_no_points_need_no_names(axes):
    labels.label_points(axes, {})
    assert not axes.texts
