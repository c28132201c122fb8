"""The ledger's pictures: effects of a factorial design, and how its factors act together."""

from collections.abc import Mapping
from itertools import combinations

from matplotlib.figure import Figure

from segkit import plot
from segkit.experiments import analysis
from segkit.experiments.analysis import Record
from segkit.experiments.grid import Design


def effects(design: Design, records: Mapping[str, Record], score: str = "test IoU") -> Figure:
    """Draw main effects and interactions of two-level factors with their intervals."""
    found = analysis.effects(design, records, score)
    fig, ax = plot.figure(6.5, 0.6 + 0.32 * len(found))
    for row, effect in enumerate(found.values()):
        away = effect.low > 0 or effect.high < 0
        ax.plot([effect.low, effect.high], [row, row], color="C0", alpha=1 if away else 0.45)
        ax.plot(effect.seeds, [row] * len(effect.seeds), "|", color="C1", markersize=9)
        ax.plot(effect.value, row, "o", color="C0", markerfacecolor="C0" if away else "white")
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(found)), [_title(design, names) for names in found])
    ax.invert_yaxis()
    ax.set(xlabel=f"effect on {score}: mean, 95 % interval, each seed")
    return fig


def _title(design: Design, names: tuple[str, ...]) -> str:
    if len(names) > 1:
        return " × ".join(names)
    first, second = design.factors[names[0]]
    return f"{names[0]}: {second} − {first}"


def interactions(design: Design, records: Mapping[str, Record], score: str = "test IoU") -> Figure:
    """Draw, for each pair of factors, the mean score at each pair of levels: lines that cross or
    fan out are an interaction, parallel ones are none.
    """
    pairs, cells = list(combinations(design.factors, 2)), design.cells()
    fig, axes = plot.figure(2.9 * len(pairs), 2.9, ncols=len(pairs), sharey=True, squeeze=False)
    for ax, (across, lines) in zip(axes.flat, pairs, strict=True):
        for shift, level in enumerate(design.factors[lines]):
            means = []
            for other in design.factors[across]:
                inside = [c[across] == other and c[lines] == level for c in cells]
                weights = [one / sum(inside) for one in inside]
                means.append(analysis.contrast(design, records, weights, score))
            values = [m.value for m in means]
            bars = [[m.value - m.low for m in means], [m.high - m.value for m in means]]
            places = [i + 0.04 * shift for i in range(len(means))]
            ax.errorbar(places, values, bars, marker="o", capsize=2, label=level)
        ax.set_xticks(range(len(design.factors[across])), design.factors[across])
        ax.set(xlabel=across, xlim=(-0.3, len(design.factors[across]) - 0.7))
        ax.legend(title=lines)
    axes[0, 0].set_ylabel(score)
    return fig
