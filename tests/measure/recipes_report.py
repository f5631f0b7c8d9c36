"""The tables and the figure of recipes.py."""

import math
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from measure.published import Recipe

from common.figures import sheets

APART = 1.15  # a point is labelled if it took this many times as long as the last labelled one
BUDGETS = {"a quarter of its time": 0.25, "half": 0.5, "once": 1.0, "twice": 2.0}

Scores = dict[str, float]  # "epochs" and "seconds", and the test scores by their keys


@dataclass(frozen=True)
class Score:
    """A test score: its key in results.json, its name, its format, and whether more is better (None: neither)."""

    key: str
    name: str
    form: str
    more: bool | None = False


@dataclass(frozen=True)
class Group:
    """Recipes for one task, and our script with the flags for it. The figure shows the first two scores."""

    title: str
    script: ModuleType
    flags: tuple[str, ...]
    scores: tuple[Score, ...]
    recipes: tuple[Recipe, ...]

    def summary(self, point: Scores) -> str:
        scores = ", ".join(f"{score.name} {point[score.key]:{score.form}}" for score in self.scores)
        return f"--epochs {point['epochs']} in {point['seconds']:.1f} s: {scores}"


def as_soon(score: Score, target: float, runs: list[Scores]) -> tuple[float, bool]:
    """The seconds after which ours, `runs` from the shortest to the longest, stays as good as `target`, or infinity.

    Between two runs, the score is taken to be linear in the logarithm of the seconds. The second value is whether even
    the shortest run is as good, so that the time may be shorter still.
    """
    missing = [(target - point[score.key]) * (1 if score.more else -1) for point in runs]
    first = max((n + 1 for n, gap in enumerate(missing) if gap > 0), default=0)  # it and all longer runs are as good
    if first == len(runs):
        return math.inf, False
    end = runs[first]["seconds"]
    if first == 0:
        return end, True
    start, share = runs[first - 1]["seconds"], missing[first - 1] / (missing[first - 1] - missing[first])
    return start * (end / start) ** share, False


def longest(runs: dict[int, Scores], budget: float) -> int | None:
    """The most epochs of ours, of the `runs` by epochs, whose training took at most `budget` seconds."""
    return max((epochs for epochs, found in runs.items() if found["seconds"] <= budget), default=None)


def our_line(found: dict) -> list[Scores]:
    """Our runs, from the shortest to the longest."""
    return sorted(found["ours"].values(), key=lambda point: point["seconds"])


def print_table(group: Group, found: dict) -> None:
    """A table in Markdown, a row for each recipe and score."""
    command = " ".join([f"{group.script.SCRIPT}.py", *group.flags, "--epochs N"])
    about = found["about"]
    where = f"on {about['machine']}, PyTorch {about['torch']}"
    print(f"\n**{group.title}**: {about['images']:,} images, {where}; ours is `{command}`, N in brackets\n")
    print(f"| recipe | its seconds | score | its score | ours in {' | '.join(BUDGETS)} | ours as good in |")
    print("|---" * (5 + len(BUDGETS)) + "|")
    ours = {int(epochs): scores for epochs, scores in found["ours"].items()}
    for recipe in group.recipes:
        if (row := found["recipes"].get(recipe.name)) is None:
            continue
        last = row["curve"][-1]
        epochs = f"{last['epochs']} of {recipe.published}" if last["epochs"] < recipe.published else last["epochs"]
        for score in group.scores:
            cells = [f"{recipe.name} ({epochs} epochs)", f"{last['seconds']:.1f}", score.name]
            cells.append(f"{last[score.key]:{score.form}}")
            for share in BUDGETS.values():
                fits = longest(ours, share * last["seconds"])
                cells.append(f"{ours[fits][score.key]:{score.form}} ({fits})" if fits else "")
            seconds, at_most = as_soon(score, last[score.key], our_line(found))
            soon = f"{'at most ' * at_most}{seconds:.1f} s, **{last['seconds'] / seconds:.1f}** times as fast"
            cells.append("" if score.more is None else soon if math.isfinite(seconds) else "not yet")
            print(f"| {' | '.join(cells)} |")


def draw(groups: dict[str, Group], measured: dict[str, dict], path: Path) -> None:
    """Plot scores over seconds, better ones higher: a row for each measured group, a column for each of two scores."""
    figure = sheets.new(10, 3.2 * len(measured) + 0.4, "Test scores over seconds of training")
    rows = figure.subplots(len(measured), 2, squeeze=False)
    for (name, found), panels in zip(measured.items(), rows, strict=True):
        group, ours = groups[name], our_line(found)
        recipes = [recipe.name for recipe in group.recipes if recipe.name in found["recipes"]]
        lines = {label: found["recipes"][label]["curve"] for label in recipes}
        for score, axes in zip(group.scores, panels, strict=False):
            for label, curve in lines.items():
                _plot(axes, curve, score, label=label, markersize=3)
            script = f"{group.script.SCRIPT}.py, one run per point"
            _plot(axes, ours, score, label=script, markersize=4, color="black", linewidth=2)
            _label(axes, ours, score)
            _dress(axes, score)
            axes.set_title(group.title, fontsize=9)
        panels[0].legend(fontsize=7, loc="best")
    sheets.save(figure, path)


def _plot(axes: Axes, points: list[Scores], score: Score, **style: object) -> None:
    axes.plot([point["seconds"] for point in points], [point[score.key] for point in points], "-o", **style)


def _label(axes: Axes, points: list[Scores], score: Score) -> None:
    """Write the epochs above each point, unless it is too near the last labelled one."""
    last = 0.0
    for point in points:
        if point["seconds"] > APART * last:
            last = point["seconds"]
            place = (last, point[score.key])
            axes.annotate(str(point["epochs"]), place, (0, 4), textcoords="offset points", fontsize=6, ha="center")


def _dress(axes: Axes, score: Score) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("seconds of training")
    axes.set_ylabel(score.name)
    if not score.more:
        axes.set_yscale("log")  # The score of a first epoch would otherwise flatten all the others.
        axes.invert_yaxis()
    axes.margins(y=0.07)  # room for the labels above the highest points
    axes.yaxis.set_major_locator(MaxNLocator(9, steps=(1, 2, 5, 10)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:{score.form}}"))
    axes.minorticks_off()
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
