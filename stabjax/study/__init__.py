"""The founding experiment: neither, clipping, a schedule, both; measured, reported."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import xarray as xr

from stabjax.study.experiment import UNFINISHED, observe
from stabjax.study.measure import measure
from stabjax.study.methods import CLIPPINGS, SCHEDULES, Methods
from stabjax.study.page import page
from stabjax.study.pictures import draw, draw_overview
from stabjax.study.plan import FOUNDING, PROBLEMS, Plan, Sizes, plans
from stabjax.study.report import About, Chapter, report, summary

__all__ = [
    "CLIPPINGS",
    "FOUNDING",
    "PROBLEMS",
    "SCHEDULES",
    "Methods",
    "Plan",
    "Sizes",
    "Study",
    "plans",
    "run",
]


class Study(NamedTuple):
    """What a study leaves behind.

    Attributes:
      runs: the dataset of each plan, by its label, as it was saved.
      summary: the answer and the document's two tables, in Markdown.
      report: the file with everything, to be opened in a browser; `report.md` beside
        it says the same, with pictures.
    """

    runs: dict[str, xr.Dataset]
    summary: str
    report: Path


def run(
    plans: Sequence[Plan],
    *,
    folder: str | os.PathLike[str] = "study",
    command: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Study:
    r"""Trains problems with neither remedy, each, and both; writes what came out.

    By default SGD takes :math:`w` to :math:`w - \eta_t\, g \min(1, c / \|g\|)`. The
    remedies are numbers of one program: :math:`c = \infty` switches clipping off, and
    another number the schedule. So each problem is one sweep with one compilation, over
    learning rates, thresholds and seeds.

    A call that was stopped, by Ctrl-C or by a crash, goes on where it was when it is
    called again: problems that are done are read from the folder, as long as they would
    come out the same, and those that are not lose no more than the chunks in hand.

    Args:
      plans: what to train, from `plans`.
      folder: where `report.html`, `report.md`, pictures and datasets go; made if it is
        not there.
      command: what the report says reproduces it, or None.
      say: is given lines on what is being done and how long it will take.

    Returns:
      A `Study`.

    Raises:
      OSError: if the folder cannot be written.
      KeyboardInterrupt: if it is stopped; the same call goes on.

    Example:
      >>> import tempfile, stabjax
      >>> sizes = stabjax.study.Sizes(rates=5, thresholds=1, seeds=2, steps=20)
      >>> plans = stabjax.study.plans(["quadratic"], sizes)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     done = stabjax.study.run(plans, folder=folder)
      >>> dict(done.runs["quadratic"].sizes)["peak_value"]
      5

    Source: the experiment of the article that the project was founded on, over ranges
    of learning rates, thresholds and seeds.
    """
    started = time.perf_counter()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    say(
        f"{sum(p.sizes.trainings for p in plans):,} trainings, about "
        f"{sum(p.seconds for p in plans):.0f} s on two cores; results in {folder}/"
    )
    chapters = _chapters(plans, folder, say)
    overview = draw_overview([chapter.measures for chapter in chapters], folder)
    about = About(overview, command, time.perf_counter() - started)
    (folder / "report.md").write_text(report(chapters, about), encoding="utf-8")
    path = folder / "report.html"
    path.write_text(page(chapters, folder, about), encoding="utf-8")
    say(f"{about.seconds:.0f} s in all")
    return Study({c.label: c.runs for c in chapters}, summary(chapters), path)


def _chapters(
    plans: Sequence[Plan], folder: Path, say: Callable[[str], None]
) -> list[Chapter]:
    """Trains every plan, and draws it while the next one compiles."""
    artist = ThreadPoolExecutor(1)
    try:
        observed = []
        for number, one in enumerate(plans, start=1):
            say(
                f"[{number}/{len(plans)}] {one.label}: {one.sizes.trainings:,} "
                f"trainings of {one.sizes.steps} steps, about {one.seconds:.0f} s"
            )
            runs = observe(one, folder, say)
            observed.append((runs, artist.submit(draw, runs, folder)))
        with contextlib.suppress(OSError):  # not there, or of another study
            (folder / UNFINISHED).rmdir()
        return [
            Chapter(runs, measure(runs), drawn.result()) for runs, drawn in observed
        ]
    finally:  # after an error, what still waits to be drawn is of no use
        artist.shutdown(cancel_futures=True)
