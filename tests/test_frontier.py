import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from fedutils import frontier, looks

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def closed():
    looks.style()
    yield
    plt.close("all")


def records(recipe, seed, factor):
    rounds = np.arange(0, 21)
    table = pd.DataFrame({"recipe": recipe, "dataset": "d", "seed": seed, "round": rounds})
    table["test_accuracy"] = np.where(rounds % 5 == 0, 0.9 + 0.004 * rounds - 0.01 * seed, np.nan)
    table["cumulative_aggregated_bits"] = factor * rounds
    table["cumulative_broadcast_bits"] = 1000 * rounds
    return table


def row(name, uplink, total, accuracy, ratio=None):
    found = {"name": name, "label": name, "final_accuracy": accuracy, "seeds": [1, 2, 3]}
    found["seeds_reached_97"] = 3 if uplink else 0
    for percent, share in (("95", 0.5), ("97", 1.0)):
        found[f"uplink_bits_{percent}"] = uplink and share * uplink
        found[f"total_bits_{percent}"] = total and share * total
    found |= {"uplink_ratio_97": ratio, "total_ratio_97": ratio}
    return found | {"bits_per_parameter": 2.0, "downlink_bits_per_parameter": 32.0}


ROWS = [row("none", 6400, 12800, 0.975, 1.0), row("adaptive", 64, 6464, 0.974, 100.0)]
ROWS.append(row("top-k", None, None, 0.966))


def test_lines_are_means_over_seeds_and_bands_their_range():
    table = pd.concat([records("none", s, 1000) for s in (1, 2)] + [records("adaptive", 1, 2)])
    uplink, total = frontier.curves(table).axes
    (line,) = [line for line in uplink.get_lines() if line.get_label() == "none"]
    np.testing.assert_allclose(line.get_xdata(), [5000, 10000, 15000, 20000])
    np.testing.assert_allclose(line.get_ydata(), 0.885 + 0.004 * np.arange(5, 21, 5))
    (line,) = [line for line in total.get_lines() if line.get_label() == "adaptive"]
    np.testing.assert_allclose(line.get_xdata(), 1002 * np.arange(5, 21, 5))
    band = uplink.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(0.90) and band.max() == pytest.approx(0.97)
    names = {text.get_text() for text in uplink.texts}
    assert {"none", "adaptive", "Uplink"} <= names


def test_bars_end_where_the_target_was_reached():
    uplink, _ = frontier.bits_to_target(ROWS, (0.95, 0.97)).axes
    ends = sorted(bar.get_x() + bar.get_width() for bar in uplink.patches)
    assert ends == pytest.approx([64, 6400])
    names = [label.get_text() for label in uplink.get_yticklabels()]
    assert names == ["top-k", "none", "adaptive"]  # from below
    texts = [text.get_text() for text in uplink.texts]
    assert texts == ["97 % not reached", "", "÷ 100"]


def test_a_target_that_some_seeds_reached_says_so_beside_the_markers():
    some = row("adaptive-fixed", 640, 6464, 0.968) | {"seeds_reached_97": 2}
    some |= {"uplink_bits_97": None, "total_bits_97": None}
    uplink, _ = frontier.bits_to_target([*ROWS, some], (0.95, 0.97)).axes
    (text,) = [text for text in uplink.texts if text.get_text() == "97 %: 2 of 3 seeds"]
    assert text.xy[0] == 320  # the marker of 95 %


def test_frontier_has_each_recipe_at_its_rate():
    (uplink,) = frontier.frontier(ROWS).axes
    points = {tuple(np.round(p, 6)) for line in uplink.get_lines()[:3] for p in line.get_xydata()}
    assert points == {(2.0, 0.975), (2.0, 0.974), (2.0, 0.966)}
    assert [text.get_text() for text in uplink.texts] == ["top-k", "adaptive", "none"]


def test_names_stand_side_by_side_however_close_their_points():
    names = [name for name in looks.OWN if name != "default"] + ["qsgd", "drive", "eden1", "eden2"]
    rows = [row(name, 64, 6464, 0.97 + i / 1e5, 1.0) for i, name in enumerate(names)]
    figure = frontier.frontier(rows)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == len(names)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_what_ends_far_below_is_drawn_at_the_lower_end_with_its_accuracy():
    (uplink,) = frontier.frontier([*ROWS, row("3lc", None, None, 0.585)]).axes
    assert "3lc (58.5 %)" in [text.get_text() for text in uplink.texts]
    lowest = [line.get_ydata()[0] for line in uplink.get_lines() if line.get_marker() == 7]
    assert lowest == [uplink.get_ylim()[0]]


def test_recipes_of_one_seed_are_hollow_and_compared_with_that_seed():
    one = row("qsgd", 640, 6464, 0.972, 5.0) | {"label": "qsgd (seed 1)"}
    few = row("none", 3200, 9600, 0.971, 1.0) | {"label": "none (seed 1)"}
    (axes,) = frontier.frontier([*ROWS, one], [few]).axes
    hollow = [line for line in axes.get_lines() if line.get_markerfacecolor() == "white"]
    assert [line.get_ydata().tolist() for line in hollow] == [[0.972]]
    dotted = [line for line in axes.get_lines() if line.get_linestyle() == ":"]
    assert [line.get_ydata()[0] for line in dotted] == [0.971]
    uplink, _ = frontier.bits_to_target([*ROWS, one, few], (0.95, 0.97)).axes
    names = [label.get_text() for label in uplink.get_yticklabels()]
    assert names == ["top-k", "none", "none (seed 1)", "qsgd (seed 1)", "adaptive"]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_what_compresses_the_uplink_alone_has_one_name_and_what_is_never_seen_is_listed():
    both = records("two-way", 1, 10).assign(cumulative_broadcast_bits=20 * np.arange(21))
    table = pd.concat([records("none", 1, 1000), records("qsgd", 1, 10), both])
    low = records("3lc", 1, 10)
    low["test_accuracy"] -= 0.5
    uplink, total = frontier.curves(pd.concat([table, low])).axes
    assert {"none", "qsgd", "two-way"} < set(texts(uplink))
    assert uplink.get_xlabel().endswith("\n(always below 85 %: 3lc)")
    assert {"none", "two-way", "uplink\nalone\ncompressed"} < set(texts(total))
    assert "qsgd" not in texts(total) and "3lc" not in total.get_xlabel()


def test_each_kind_of_compression_has_a_panel_with_the_others_in_the_background():
    names = ("none", "adaptive", "qsgd", "dadaquant", "top-k", "eden1", "tff-compression")
    table = pd.concat([records(name, 1, 10 * (i + 1)) for i, name in enumerate(names)])
    panels = {texts(axes)[0]: axes for axes in frontier.families(table).axes}
    assert set(panels) == {
        *("This project's", "Quantization", "Sparsification", "Rotation"),
        *("The study's, and TFF's", "Both directions"),
    }
    assert set(texts(panels["Quantization"])[1:]) == {"none", "qsgd", "dadaquant"}
    assert set(texts(panels["Rotation"])[1:]) == {"none", "eden1"}
    lines = [line for line in panels["Rotation"].get_lines() if len(line.get_xdata()) == 4]
    grey = [line for line in lines if line.get_color() == "0.87"]
    assert len(lines) == len(names) and len(grey) == len(names) - 2


def test_times_add_up():
    parts = {"download": [3600.0, 36.0], "compute": [1800.0, 18.0], "upload": [1800.0, 18.0]}
    counts = {"seeds": 3, "reached": 3}
    times = pd.DataFrame({"link": "3G", "recipe": ["none", "adaptive"], **counts, **parts})
    (axes,) = frontier.time_to_accuracy(times, 0.97).axes
    ends = {}
    for bar in axes.patches:
        ends[round(bar.get_y() + bar.get_height() / 2)] = bar.get_x() + bar.get_width()
    assert ends == pytest.approx({0: 1.2, 1: 120.0})  # minutes
    assert [text.get_text() for text in axes.texts] == [" 1.2", " 120"]


@pytest.mark.parametrize(("reached", "text"), [(0, " not reached"), (2, " 2 of 3 seeds")])
def test_times_that_not_all_seeds_have_are_told(reached, text):
    parts = {"download": [3600.0, np.nan], "compute": [1.0, np.nan], "upload": [1.0, np.nan]}
    counts = {"seeds": 3, "reached": [3, reached]}
    times = pd.DataFrame({"link": "3G", "recipe": ["none", "qsgd"], **counts, **parts})
    (axes,) = frontier.time_to_accuracy(times, 0.97).axes
    assert axes.texts[0].get_text() == text
