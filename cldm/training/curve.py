"""The picture of a run: loss and control fidelity against steps."""

from collections.abc import Sequence
from pathlib import Path

from cldm.weights.saving import written_whole

Points = Sequence[tuple[int, float]]
"""Steps and values."""


def draw_curve(
    file: Path, fidelity: Points, losses: dict[str, Points], label: str = "fidelity", learned: int | None = None
) -> None:
    """Draw curves as a PNG file; one of that name is replaced.

    Args:
        file: To write.
        fidelity: Of the control, in [0, 1].
        losses: By the names that they have in the legend, positive; without points they are left out.
        label: What the fidelity is.
        learned: Step at which the control was learnt, to be marked.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    axis.set(xlabel="step", ylabel="loss")
    for (name, points), style in zip(losses.items(), ("-", "--", ":"), strict=False):
        if points:
            axis.plot(*zip(*points, strict=True), style, color="tab:gray", label=name)
            axis.set_yscale("log")
    right = axis.twinx()
    right.set(ylabel=label, ylim=(0, 1))
    if fidelity:
        right.plot(*zip(*fidelity, strict=True), "o-", color="tab:blue", markersize=4, label=label)
    if learned is not None:
        right.axvline(learned, color="tab:orange", label=f"learnt at step {learned}")
    figure.legend(loc="outside upper right", ncols=4)
    with written_whole(file, replace=True) as unfinished:
        figure.savefig(unfinished, dpi=120, format="png")
