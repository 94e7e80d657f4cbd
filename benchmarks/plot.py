"""The picture of a detection benchmark, where matplotlib is installed."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import harness

if TYPE_CHECKING:
    from detection import Burst, Series

_OURS, _OTHERS = "#b5361c", "#5b6470"


def draw(name: str, series: Sequence[Series], bursts: Mapping[int, Sequence[Burst]]) -> None:
    """Draw each death as a dot and each burst as a curve; where matplotlib is missing, say so and leave.

    Args:
        name: the file in benchmarks/results.
        series: deaths one at a time.
        bursts: deaths all at once, by their number.
    """
    plt = _pyplot()
    if plt is None:
        return
    shown = [one for one in series if one.times]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 1.6 + 0.36 * len(shown)), width_ratios=(3, 2))
    for height, one in enumerate(reversed(shown)):
        color = _OURS if one.is_ours else _OTHERS
        spread = [height + 0.5 * (index % 7 - 3) / 7 for index in range(len(one.times))]
        left.plot(one.times, spread, ".", markersize=3, alpha=0.4, color=color)
        median = statistics.median(one.times)
        left.plot([median, median], [height - 0.36, height + 0.36], color=color, linewidth=2)
        left.annotate(harness.number(median), (median, height + 0.36), ha="center", va="bottom", fontsize=7)
    left.set_yticks(range(len(shown)), [f"{one.name}, {one.watched:,}" for one in reversed(shown)])
    left.set_xscale("log")
    left.set_xlabel("ms from the kill until it is known; the line is the median")
    left.set_title("one death at a time, by number of processes watched", loc="left", fontsize=9)
    for count, results in bursts.items():
        for burst, style in zip(results, ("-", "--", ":"), strict=False):
            middle = sorted(burst.curves, key=lambda curve: curve[-1][0])[len(burst.curves) // 2]
            times, settled = zip(*middle, strict=True)
            color = _OURS if burst.is_ours else _OTHERS
            right.step(times, settled, style, where="post", color=color, label=f"{burst.name}, {count:,}")
    right.set_xlabel("ms since the first kill")
    right.set_title("rows committed when all die at once", loc="left", fontsize=9)
    if bursts:
        right.legend(frameon=False, fontsize=7)
    _save(plt, figure, name)


def draw_growth(name: str, tables: Mapping[str, Mapping[int, Mapping[str, float]]], columns: Mapping[str, str]) -> None:
    """Draw each measure over what it may grow with, both on a logarithmic scale; a dotted line grows as its work does.

    Args:
        name: the file in benchmarks/results.
        tables: by what grows: by its number: the measures.
        columns: what each measure is called.
    """
    plt = _pyplot()
    if plt is None:
        return
    figure, places = plt.subplots(1, len(tables), figsize=(4 * len(tables), 4), sharey=True)
    for place, (what, found) in zip(places, tables.items(), strict=True):
        counts = list(found)
        for measure, called in columns.items():
            place.plot(counts, [max(found[count][measure], 1e-3) for count in counts], ".-", label=called)
        place.plot(counts, [counts[-1] ** -1 * 1000 * count for count in counts], ":", color=_OTHERS)
        place.set_xscale("log")
        place.set_yscale("log")
        place.set_xlabel(what)
    places[0].legend(frameon=False, fontsize=6)
    _save(plt, figure, name)


def _pyplot() -> Any:
    """Return pyplot, None where matplotlib is missing; that is said."""
    sys.path.append(str(harness.PEERS / "plot"))
    try:
        import matplotlib as mpl  # noqa: PLC0415  optional

        mpl.use("svg")
        from matplotlib import pyplot as plt  # noqa: PLC0415  optional
    except ImportError:
        harness.progress("no plot: matplotlib is not installed; see benchmarks/setup.sh")
        return None
    mpl.rcParams.update({"font.size": 9, "svg.hashsalt": "benchmarks", "axes.spines.top": False})
    return plt


def _save(plt: Any, figure: Any, name: str) -> None:
    figure.tight_layout()
    figure.savefig(harness.RESULTS / name, metadata={"Date": None})
    plt.close(figure)
    print(f"drawn to benchmarks/results/{name}")
