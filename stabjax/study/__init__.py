"""A study of clipping and schedules: baseline, either and both, measured and reported.

Needs the packages of the extra `stabjax[study]`.
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
      runs: the dataset of each plan, by its label.
      summary: the answer and the tutorial's two tables, in Markdown.
      report: the path of the report, an HTML file; `report.md` beside it has the same
        text.
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
    """Trains problems with no treatment, clipping, a schedule, and both, and reports.

    By default SGD updates the parameters by

        w <- w - rate(t) * g * min(1, threshold / |g|)

    An infinite threshold switches clipping off, and another number the schedule, so
    each problem is one sweep with one compilation, over learning rates, thresholds and
    seeds.

    The same call resumes an interrupted study: a finished problem is read from the
    folder if training would give the same, and an interrupted one continues after its
    last finished chunk.

    Args:
      plans: what to train, from `stabjax.study.plans`. **Static.**
      folder: the folder of `report.html`, `report.md`, pictures and datasets; created
        if it does not exist. **Static.**
      command: the command that the report gives to reproduce it, or None. **Static.**
      log: is called with lines on progress and expected duration. **Static.**

    Returns:
      A `Study`.

    Raises:
      OSError: the folder cannot be written.
      KeyboardInterrupt: the study was interrupted; the same call resumes it.

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
            f"at 5 % needs {MIN_SEEDS} seeds"
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
    """Trains every plan, and draws each one while the next one compiles."""
    artist = ThreadPoolExecutor(1)
    try:
        prepared = [prepare(plan, folder) for plan in plans]
        expected = [forecast(one) for one in prepared]
        log(f"about {sum(expected):.0f} s, by one chunk of each problem")
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
    finally:  # after an error, pictures still waiting are not needed
        artist.shutdown(cancel_futures=True)
