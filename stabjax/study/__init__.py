"""A study that compares clipping, schedules and their combination with a baseline.

Requires the packages of the extra `stabjax[study]`.
"""

try:
    import jinja2  # noqa: F401
    import markdown  # noqa: F401
    import plotly  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"stabjax.study needs the package {error.name!r}: pip install 'stabjax[study]'",
        name=error.name,
    ) from error

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import xarray as xr

from stabjax._catalogue import CLIPPINGS, SCHEDULES
from stabjax.study.experiment import UNFINISHED, forecast, observed, prepare
from stabjax.study.measure import MIN_SEEDS, measure
from stabjax.study.methods import Methods
from stabjax.study.page import page
from stabjax.study.pictures import draw, draw_overview
from stabjax.study.plan import DEFAULT_PROBLEMS, PROBLEMS, Plan, Sizes, plans
from stabjax.study.report import Chapter, markdown, sections, summary

__all__ = [
    "CLIPPINGS",
    "DEFAULT_PROBLEMS",
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
    """The results of a study.

    Attributes:
      runs: a dict of datasets, keyed by the label of the plan.
      summary: a Markdown summary with the main result and the tutorial's two tables.
      report: path of the HTML report. The same folder contains the report in Markdown,
        `report.md`.
    """

    runs: dict[str, xr.Dataset]
    summary: str
    report: Path


def run(
    plans: Sequence[Plan],
    *,
    folder: str | os.PathLike[str] = "study",
    command: str | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Study:
    """Trains problems with a baseline, clipping, a schedule and both; writes a report.

    By default, SGD updates the parameters by

        w <- w - rate(t) * g * min(1, threshold / |g|)

    Each problem is a single sweep with one compilation over learning rates, thresholds
    and seeds. The baseline is part of the sweep, because an infinite threshold disables
    clipping and a numeric flag disables the schedule.

    To resume an interrupted study, repeat the call. Finished problems are loaded from
    the folder if nothing that affects their results has changed. An interrupted problem
    resumes after its last finished chunk.

    Args:
      plans: the plans to run, created by `stabjax.study.plans`.
      folder: output folder for `report.html`, `report.md`, plots and datasets. It is
        created if it does not exist.
      command: the command to print in the report for reproducing the study, or None.
      log: a function that is called with progress messages.

    Returns:
      A `Study`.

    Raises:
      OSError: If the folder is not writable.
      KeyboardInterrupt: If the study was interrupted. Repeat the call to resume.

    Example:
      >>> import tempfile, stabjax
      >>> sizes = stabjax.study.Sizes(rates=5, thresholds=1, seeds=2, steps=20)
      >>> plans = stabjax.study.plans(["quadratic"], sizes)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     done = stabjax.study.run(plans, folder=folder)
      >>> dict(done.runs["quadratic"].sizes)["peak_value"]
      5
    """
    started = time.perf_counter()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    log(f"{sum(p.sizes.runs for p in plans):,} runs; results in {folder}/")
    few = min((plan.sizes.seeds or 1 for plan in plans), default=MIN_SEEDS)
    if few < MIN_SEEDS:
        log(
            f"warning: with {few} seeds no difference can be significant; a sign test "
            f"at the 5% level needs {MIN_SEEDS} seeds"
        )
    chapters = _chapters(plans, folder, log)
    overview = draw_overview([chapter.measures for chapter in chapters], folder)
    seconds = time.perf_counter() - started
    report = sections(chapters, overview, command, seconds)
    (folder / "report.md").write_text(markdown(report), encoding="utf-8")
    path = folder / "report.html"
    path.write_text(page(report, chapters, folder), encoding="utf-8")
    log(f"{seconds:.0f} s in total")
    return Study({c.label: c.runs for c in chapters}, summary(report), path)


def _chapters(
    plans: Sequence[Plan], folder: Path, log: Callable[[str], None]
) -> list[Chapter]:
    """Trains all plans and draws the plots of each one while the next one compiles."""
    artist = ThreadPoolExecutor(1)
    try:
        prepared = [prepare(plan, folder) for plan in plans]
        expected = [forecast(one) for one in prepared]
        log(f"about {sum(expected):.0f} s, estimated from one chunk of each problem")
        found = []
        for number, (one, seconds) in enumerate(zip(prepared, expected, strict=True)):
            sizes = one.plan.sizes
            log(
                f"[{number + 1}/{len(plans)}] {one.plan.label}: {sizes.runs:,} runs of "
                f"{sizes.steps} steps, about {seconds:.0f} s"
            )
            runs = observed(one, seconds, log)
            found.append((runs, artist.submit(draw, runs, folder)))
        with contextlib.suppress(OSError):  # missing, or used by another study
            (folder / UNFINISHED).rmdir()
        return [Chapter(runs, measure(runs), drawn.result()) for runs, drawn in found]
    finally:  # after an error, pending plots are not needed
        artist.shutdown(cancel_futures=True)
