"""The tables of `benchmarks/peers.md`: what others need and take, beside this project."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedutils import peers
from fedutils.tables import markdown


def table(found: Mapping, executed: Mapping) -> str:
    """Returns the tables as Markdown.

    Args:
        found: What was measured (`peers.read`).
        executed: The manifest of the executed notebooks.
    """
    sections = [
        "# Side by side: the same updates through every peer",
        "Written from `benchmarks/peers.json` by `make bench` and `make report`.",
        *_rates_text(found),
        *_speed_text(found),
        *_growth_text(found),
        *_rounds_text(found),
        *_executed_text(executed),
        *_origin_text(found),
    ]
    return "\n\n".join(sections) + "\n"


def _range(values: Sequence[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def _rates_text(found: Mapping) -> list[str]:
    parameters = found["parameters"]
    rounds = dict.fromkeys(str(row["round"]) for row in found["rate_distortion"])
    compared = peers.compare(found["rate_distortion"], parameters)
    wins = sorted({row["codec"] for row in compared if row["ratio"] < 1})
    rows = []
    for name in dict.fromkeys(row["codec"] for row in compared):
        points = peers.rows_with(compared, codec=name)
        rows.append(
            (
                name,
                "bytes" if points[0]["measured"] else "a formula",
                len(points),
                _range([8 * row["bytes"] / parameters for row in points], "{:.3g}"),
                _range([row["nmse"] for row in points], "{:.2g}"),
                _range([row["ratio"] for row in points], "{:.2f}"),
                _range([row["ratio_any"] for row in points], "{:.2f}"),
            )
        )
    rows.sort(key=lambda row: float(row[5].split()[0]))
    head = ("codec", "size", "points", "bits per parameter", "NMSE")
    verdict = (
        f"Fewer bytes than ours somewhere: {', '.join(wins)}."
        if wins
        else "None needs fewer bytes than ours at any of these points."
    )
    return [
        "## Rate and distortion",
        f"Updates of one client in rounds {', '.join(rounds)} of plain federated averaging of the "
        "study's CNN. Times ours: bytes over those that this project's `context` needs to err no "
        "more, rounding the same way (at random or to the nearest), or any way. constriction, tfc "
        "(tensorflow-compression), zstd, zlib and bz2 code the very symbols that `context` rounds "
        "to, with their frequencies inside where they need them; `8-bit +` compresses the levels "
        f"of 8-bit quantization. Compared where ours needs {peers.LEAST_BITS:g} to "
        f"{peers.MOST_BITS:g} bits per parameter. " + verdict,
        markdown((*head, "times ours", "times ours, any rounding"), rows),
    ]


def _speed_text(found: Mapping) -> list[str]:
    sections = [
        "## Speed",
        "One update, one core, medians of turns, so that each coder finds the caches as another "
        "left them (further down: warm); MB of the update's floats.",
    ]
    for symbols in dict.fromkeys(row["symbols"] for row in found["speed"]):
        rows = sorted(
            peers.rows_with(found["speed"], symbols=symbols), key=lambda row: row["both_ms"]
        )
        sections += [
            f"Symbols: {symbols}.",
            markdown(
                ("coder", "encode, MB/s", "decode, MB/s", "both, ms", "bytes"),
                [
                    (
                        f"**{row['coder']}**" if row["own"] else row["coder"],
                        f"{row['encode_mb_s']:,.0f}",
                        f"{row['decode_mb_s']:,.0f}",
                        f"{row['both_ms']:.1f}",
                        f"{row['bytes']:,.0f}",
                    )
                    for row in rows
                ],
            ),
        ]
    return sections


def _growth_text(found: Mapping) -> list[str]:
    rows = [
        (
            f"**{row['coder']}**" if row["own"] else row["coder"],
            f"{row['elements']:,}",
            f"{row['encode_s']:.4g}",
            f"{row['decode_s']:.4g}",
            f"{1e9 * (row['encode_s'] + row['decode_s']) / row['elements']:.1f}",
            f"{row['peak_memory_mib']:,}",
        )
        for row in found["growth"]
    ]
    head = ("coder", "elements", "encode, s", "decode, s", "both, ns an element", "peak, MiB")
    return [
        "## Growth",
        "The least of some repeats in a row, one core, a process for each row; its peak memory "
        "with all packages.",
        markdown(head, rows),
    ]


def _rounds_text(found: Mapping) -> list[str]:
    rows = sorted(found["round_time"], key=lambda row: row["seconds"])
    bare = min(row["seconds"] for row in rows if row["system"].startswith(peers.LIMIT))
    lines = [
        (
            f"**{row['system']}**" if row["own"] else row["system"],
            f"{row['seconds']:.2f}",
            f"{row['ratio_to_plain_tff']:.3f}",
            f"{row['least_ratio']:.2f} to {row['greatest_ratio']:.2f}",
            f"{row['seconds'] / bare:.2f}",
            row["turns"],
        )
        for row in rows
    ]
    head = ("system", "seconds per round", "of plain TFF", "from, to", "of the bare loop", "turns")
    return [
        "## Time of a round",
        "Federated averaging of the study's CNN, the same ten clients of `mnist5k` for all, one "
        "after the other, turn by turn. Seconds are medians over turns; of plain TFF, the median, "
        "the least and the greatest of the ratios within a turn; of the bare loop, the ratio of "
        "medians to the quicker of the two rows of plain TensorFlow.",
        markdown(head, lines),
    ]


def _executed_text(executed: Mapping) -> list[str]:
    total = sum(entry["seconds"] for entry in executed.values())
    rows = [
        (
            name,
            f"{entry['seconds']:.0f}",
            f"{entry['seconds'] / total:.0%}",
            f"{entry['peak_memory_gib']:.2f}",
        )
        for name, entry in executed.items()
    ]
    most = max((entry["peak_memory_gib"] for entry in executed.values()), default=0)
    rows.append(("all", f"{total:.0f}", "100%", f"{most:.2f}"))
    return [
        "## End to end",
        "`make reproduce`, by notebook.",
        markdown(("notebook", "seconds", "share", "peak memory, GiB"), rows),
        "Nearly all of it is training. So a run is made once, and every notebook that needs it "
        "finds it; clients go through their batches in TFF's other, quicker loop, with the same "
        "weights bit for bit; as many of them train at a time as there are cores, not all at "
        "once; the default recipe's coder sees the nonzeros alone. Set-up, which comes before, "
        "is uv's: it installs the lock in parallel.",
    ]


def _origin_text(found: Mapping) -> list[str]:
    about = found["about"]
    rows = []
    for part in peers.PARTS:
        where = about[part]
        machine = where["machine"]
        state = "idle" if part in peers.TIMED else "not timed"
        if where["busy"]:
            state = f"busy ({where['cpu_percent_before']:g} % of the cores before): preliminary"
        facts = f"{machine['cores']} × {machine['processor']}, {machine['memory_gib']} GiB"
        rows.append((part, where["date"], where["commit"], facts, state))
    versions = about["rate_distortion"]["peers"] | {
        name: about["rate_distortion"]["versions"][name]
        for name in ("tensorflow-federated", "tensorflow")
    }
    missing = [
        f"- {entry['peer']} ({part}): {entry['reason']}"
        for part in peers.PARTS
        for entry in about[part]["unavailable"]
    ]
    return [
        "## Where it comes from",
        markdown(("part", "date", "commit", "machine", "it was"), rows),
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        "Not measured:\n\n" + "\n".join(missing) if missing else "Every peer was measured.",
    ]
