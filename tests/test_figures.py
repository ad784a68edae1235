import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest

from fedutils import analysis, figures

matplotlib.use("agg")


@pytest.fixture
def records():
    rounds = np.arange(0, 21)
    tables = []
    for recipe, factor in (("none", 1000), ("tff-compression", 250)):
        table = pd.DataFrame({"recipe": recipe, "dataset": "d", "seed": 1, "round": rounds})
        table["test_accuracy"] = np.where(rounds % 5 == 0, 0.1 + 0.04 * rounds, np.nan)
        table["test_loss"] = 2.3 - 0.1 * table["test_accuracy"]
        table["cumulative_aggregated_bits"] = factor * rounds
        table["cumulative_broadcast_bits"] = 1000 * rounds
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


@pytest.mark.parametrize("x", ["round", "cumulative_aggregated_bits", "total_bits"])
def test_drawn_points_are_the_records(records, x):
    figure = figures.accuracy_and_loss(records, x)
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["none", "tff-compression"]
    evaluated = records[(records["recipe"] == "tff-compression")].dropna()
    factor = {"round": 1, "cumulative_aggregated_bits": 250, "total_bits": 1250}[x]
    expected = evaluated[evaluated["round"] > 0] if x != "round" else evaluated
    np.testing.assert_allclose(lines[1].get_xdata(), factor * expected["round"])
    np.testing.assert_allclose(lines[1].get_ydata(), expected["test_accuracy"])
    assert figure.axes[0].get_xlabel() == figures.LABELS[x]


def test_accuracies_that_hardly_differ_have_labels_that_do(records):
    records["test_accuracy"] = records["test_accuracy"].where(records["test_accuracy"].isna(), 0.1)
    figure = figures.accuracy_and_loss(records, "round")
    figure.canvas.draw()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) > 2 and len(set(labels)) == len(labels)


def test_equal_records_give_equal_files(records, tmp_path):
    figures.style()
    for folder in ("a", "b"):
        figures.save(figures.accuracy_and_loss(records, "total_bits"), tmp_path / folder, "f")
    for name in ("f.png", "f.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_bits_to_accuracy(records):
    table = analysis.bits_to_accuracy(records, targets=(0.5, 0.9, 0.95))
    assert table.loc[("50%", "none"), "round"] == "10"
    assert table.loc[("50%", "none"), "aggregated"] == "9.77 Kibit"
    assert table.loc[("50%", "tff-compression"), "times fewer aggregated"] == "4"
    assert table.loc[("50%", "tff-compression"), "times fewer in all"] == "1.6"
    assert table.loc[("90%", "none"), "round"] == "20"
    assert (table.loc["95%"] == "").all(axis=None)


def test_accuracy_kept_is_of_the_same_evaluations(records):
    points = [0.0, 1.3, -2.6, 0.4, -0.7]
    evaluated = (records["recipe"] == "tff-compression") & records["test_accuracy"].notna()
    records.loc[evaluated, "test_accuracy"] += np.array(points) / 100
    table = analysis.accuracy_kept(records)
    assert table.index.tolist() == ["none", "tff-compression"]
    assert table.loc["none"].tolist()[1:] == ["", "", ""]
    assert table.loc["tff-compression"].tolist() == ["89.3%", "-0.7", "-2.6", "+1.3"]


def test_a_target_that_only_the_other_recipe_reached_has_no_ratio(records):
    records.loc[records["recipe"] == "none", "test_accuracy"] -= 0.2
    table = analysis.bits_to_accuracy(records, targets=(0.85,))
    assert table.loc[("85%", "tff-compression"), "round"] == "20"
    assert table.loc[("85%", "tff-compression"), "times fewer aggregated"] == ""


def test_biased_codecs_are_hollow_and_lossless_ones_left_out():
    measured = pd.DataFrame(
        {
            "recipe": ["identity", "qsgd", "top-k", "context"],
            "bits_per_parameter": [32.0, 1.7, 0.4, 0.07],
            "nmse": [0.0, 0.08, 0.5, 15.0],
        }
    )
    unbiased = {"identity": True, "qsgd": True, "top-k": False, "context": True}
    sweep = pd.DataFrame({"bits_per_parameter": [0.1, 1.0], "nmse": [10.0, 0.1]})
    entropies = pd.DataFrame({"entropy_bits_per_parameter": [0.1, 1.0], "nmse": [0.8, 0.1]})
    figure = figures.rate_distortion(
        measured, unbiased, {"context by its step": sweep}, entropies, lambda rate: 4.0**-rate
    )
    axes = figure.axes[0]
    drawn = {line.get_label(): line for line in axes.get_lines()}
    hollow = drawn["Of the literature, biased"]
    assert (hollow.get_xdata(), hollow.get_markerfacecolor()) == ([0.4], "white")
    filled = drawn["Of the literature, unbiased"]
    assert filled.get_xdata() == [1.7] and filled.get_markerfacecolor() != "white"
    assert drawn["This project's, unbiased"].get_marker() == "*"
    assert "This project's, biased" not in drawn
    assert {text.get_text() for text in axes.texts} == {"qsgd", "top-k", "context"}


def test_the_budget_is_drawn_beside_what_was_spent():
    rounds = np.arange(1, 61)
    spent = {"payload_bits_sum": 2000 * 10, "step": 0.7}
    records = pd.DataFrame({"recipe": "adaptive", "round": rounds, **spent})
    figure = figures.adaptation(records, 10, budgets={"adaptive": (1500, 30)})
    run, budget = figure.axes[0].get_lines()
    assert (run.get_ydata() == 2000).all()
    np.testing.assert_allclose(np.array(budget.get_ydata())[[0, 30]], [1500, 3000])
    assert budget.get_label() == "budget of adaptive"


def test_bits_have_one_form_in_a_figure():
    bills = {"none": {"broadcast/model": 53_227_840, "aggregated/other": 32}}
    figure = figures.bits_by_content(bills)
    figure.canvas.draw()
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["50.76 Mibit", "32 bit"]
    assert "32 bit" in [label.get_text() for label in axes.get_xticklabels()]


def test_drawing_needs_no_tensorflow():
    script = (
        "import sys; from fedutils import analysis, figures, results, units, cli, notebooks\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
