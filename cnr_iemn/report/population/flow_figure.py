"""The flow of scans as a figure: found, left out and why, labelled, split."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cnr_iemn.evaluation.subgroups.scan_flow import ScanFlow
from cnr_iemn.report.population.sentences import flow_sentence
from cnr_iemn.report.svg import Drawing, draw, ink, single

_WIDTH = 7.2
_LINE = 0.21  # inches of a line of text
_PAD, _GAP, _EDGE = 0.16, 0.3, 0.03
_LEFT, _RIGHT = (0.1, 2.9), (3.7, 3.4)  # left border and width of the two columns, inches
_INDENT = "\u2003"
_MAX_REASONS = 8


def flow_figure(flow: ScanFlow) -> Drawing:
    """Return the flow diagram (as STARD and CONSORT have it)."""
    main, side = _boxes(flow)
    heights = [max(_height(box), _height(other)) for box, other in zip(main, [*side, ()], strict=True)]
    total = sum(heights) + _GAP * len(heights) + max(_height(box) for box in _sides(flow))

    def paint(figure: Figure) -> None:
        axes = single(figure)
        axes.set(xlim=(0, _WIDTH), ylim=(-_EDGE, total + _EDGE))
        axes.set_axis_off()
        centre, other = (left + width / 2 for left, width in (_LEFT, _RIGHT))
        top = total
        for k, (box, height) in enumerate(zip(main, heights, strict=True)):
            _draw_box(axes, box, _LEFT, top)
            middle, bottom = top - _height(box) / 2, top - _height(box)
            if k < len(side) and side[k]:
                _draw_box(axes, side[k], _RIGHT, top)
                _arrow(axes, (sum(_LEFT), middle), (_RIGHT[0], middle))
            top -= height + _GAP
            _arrow(axes, (centre, bottom), (centre, top))
        fork = top + _GAP / 2
        axes.plot((centre, other), (fork, fork), color=ink(), linewidth=0.9)
        _arrow(axes, (other, fork), (other, top))
        for column, box in zip((_LEFT, _RIGHT), _sides(flow), strict=True):
            _draw_box(axes, box, column, top)

    return draw("flow", "Flow of scans", flow_sentence(flow), paint, width=_WIDTH, height=total)


def _boxes(flow: ScanFlow) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Return the lines of the boxes in the middle, and of those beside all but the last, empty where there are none."""
    n_refused = sum(flow["refused"].values())
    left_out: tuple[str, ...] = ()
    if n_refused + flow["excluded"]:
        reasons = [f"{_INDENT}{n}: {reason}" for reason, n in list(flow["refused"].items())[:_MAX_REASONS]]
        further = len(flow["refused"]) - _MAX_REASONS
        more = [f"{_INDENT}and {further} other reasons"] if further > 0 else []
        refused = [f"refused on reading {n_refused}", *reasons, *more] if n_refused else []
        excluded = [f"left out by name {flow['excluded']}"] if flow["excluded"] else []
        left_out = (f"Not in the study {n_refused + flow['excluded']}", *refused, *excluded)
    n_cohort = flow["total"] - n_refused - flow["excluded"]
    unclassed = (f"Without a class {flow['unclassed']}", f"{_INDENT}predicted, neither trained nor scored on")
    n = n_cohort - flow["unclassed"]
    return (
        [
            (f"Scans found {flow['total']}",),
            (f"Prepared {n_cohort}",),
            (f"With a class {n}", f"slices labelled in {flow['slice_labelled']}"),
        ],
        [left_out, unclassed if flow["unclassed"] else ()],
    )


def _sides(flow: ScanFlow) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return _side("Training", flow["training"]), _side("Validation", flow["validation"])


def _side(name: str, counts: dict[str, int]) -> tuple[str, ...]:
    return (f"{name} {sum(counts.values())}", *(f"{_INDENT}{label} {n}" for label, n in counts.items()))


def _height(lines: Sequence[str]) -> float:
    return _LINE * len(lines) + _PAD if lines else 0.0


def _draw_box(axes: Axes, lines: Sequence[str], column: tuple[float, float], top: float) -> None:
    (left, width), height = column, _height(lines)
    axes.add_patch(Rectangle((left, top - height), width, height, fill=False, edgecolor=ink(), linewidth=0.9))
    text = "\n".join(lines)
    axes.text(left + 0.12, top - height / 2, text, va="center", ha="left", linespacing=1.3, fontsize=9)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": ink(), "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
