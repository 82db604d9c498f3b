"""The sections of the report, as Markdown text with plots."""

import platform
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from stabjax._catalogue import WARMUP_FRACTION
from stabjax.study.answer import advice, headline, numbers
from stabjax.study.experiment import SOLVED, UNTUNED_FACTOR
from stabjax.study.plan import definition
from stabjax.study.tables import both_tables, curve_tables
from stabjax.study.text import as_number, table
from stabjax.study.verdicts import verdicts

TITLE = "Gradient clipping and learning-rate schedules: an experimental comparison"

_RUN = """\
The treatments are gradient clipping and a learning-rate schedule. Schedules with a
warmup use {warmup:.0f}% of the steps for it. For each problem, a single program trains
all combinations of learning rates, thresholds (including no clipping) and seeds, with a
constant learning rate and with the schedule.

{table}

Compilation and training took {trained:.0f} s in total. The last call took
{seconds:.0f} s, including plots. Software and hardware: {versions}, {device}.
{command}
This folder also contains the plots and the runs of each problem (NAME.nc). To load the
runs, use `xarray.open_dataset("NAME.nc", engine="scipy")`."""

_COMMAND = """\
To reproduce these results, run:

    {command}
"""

_DEFINITIONS = f"""\
- *Baseline* means no clipping and a constant learning rate. *Both* means clipping and a
  schedule.
- A run *diverges* if its loss is not finite or exceeds 1,000 times the initial loss.
  Other runs are *stable*.
- A run *reaches the target* if its final loss is at most the target loss of the
  problem.
- *Runs* of a treatment include all learning rates and seeds at a fixed threshold, which
  is the middle one of the sweep. Rows marked *tuned* use the best threshold instead,
  which is selected from many more runs.
- Intervals are 95% confidence intervals. For fractions over all rates, seeds are
  resampled because runs with the same seed are not independent. If all seeds agree, the
  interval is a single value. Fractions of seeds at a single rate have Wilson score
  intervals.
- The *tuned* learning rate has the smallest median final loss. Losses below {SOLVED:g}
  of the target count as equal. Ties are resolved by the fewest steps to the target,
  then by the smallest threshold and the smallest rate. Rates are selected and evaluated
  on the same seeds, which favors all treatments equally.
- The *untuned* learning rate is about {UNTUNED_FACTOR} times the best one for the
  baseline, which is too large. It is the same for all treatments.
- *Points* are percentage points, treatment - baseline. *Ratios* divide the steps of the
  treatment by those of the baseline. They are medians over the seeds for which the
  baseline reaches the target, and empty if there are none.
- *Steps to the target* is the number of steps until the recorded loss stays at or below
  the target. Minibatch losses are averaged over the last 5% of the steps. Norms in the
  first table are computed over these steps, or over all steps if the target is not
  reached.
- *Usable learning rates* are the rates at which at least half of the seeds reach the
  target. Their width is the number of these rates times the distance between adjacent
  rates in decades (factors of ten).
- A *rise* is an increase of the loss between recorded steps. *Roughness* is the mean
  absolute second difference of the recorded log10 loss. *Late* refers to the last 10%
  of the steps. The *swing* is the largest loss minus the smallest loss.
- All treatments use the same seeds, which determine the initial weights, the
  minibatches and the noise. Comparisons are paired by seed."""


class Chapter(NamedTuple):
    """The runs, measures and plots (file -> caption) of a problem."""

    runs: xr.Dataset
    measures: xr.Dataset
    pictures: Mapping[str, str]

    @property
    def label(self) -> str:
        """The name of the problem, followed by the names of non-default methods."""
        return str(self.runs.attrs["label"])


class Section(NamedTuple):
    """A section of the report with a title, Markdown text and plots."""

    title: str
    text: str
    pictures: Mapping[str, str] = {}

    def markdown(self) -> str:
        """Returns the section as Markdown."""
        shown = (f"![{f[:-4]}]({f})\n\n*{text}*" for f, text in self.pictures.items())
        return "\n\n".join([f"## {self.title}", self.text, *shown])


def sections(
    chapters: Sequence[Chapter],
    overview: Mapping[str, str],
    command: str | None,
    seconds: float,
) -> list[Section]:
    """Returns the sections of the report, beginning with the main result.

    Args:
      chapters: the results of all problems.
      overview: a dict with the caption of the overview plot, keyed by file.
      command: the command that reproduces the study, or None.
      seconds: the duration of the study.
    """
    measured = [chapter.measures for chapter in chapters]
    return [
        Section("Main result", headline(measured), overview),
        Section("What to do", advice(measured)),
        Section("In numbers", numbers(measured)),
        *map(_tables, chapters, [True] + [False] * len(chapters)),
        Section("Learning curves with and without a schedule", curve_tables(measured)),
        Section("Tests of the tutorial's claims", verdicts(measured)),
        Section("Definitions", _DEFINITIONS),
        Section("Experimental setup", _provenance(chapters, command, seconds)),
    ]


def summary(report: Sequence[Section]) -> str:
    """Returns the main result and the tutorial's tables for the first problem."""
    return "\n\n".join(s._replace(pictures={}).markdown() for s in report[:4])


def markdown(report: Sequence[Section]) -> str:
    """Returns the complete report as Markdown."""
    return "\n\n".join([f"# {TITLE}", *(s.markdown() for s in report)]) + "\n"


def _tables(chapter: Chapter, first: bool) -> Section:
    title = "The tutorial's two tables, measured on" if first else "The tables on"
    text = both_tables(chapter.measures, claims=first)
    about = definition(chapter.runs.attrs["problem"])
    text = f"{about}\n\n{text}" if about else text
    return Section(f"{title} {chapter.label}", text, chapter.pictures)


def _provenance(
    chapters: Sequence[Chapter], command: str | None, seconds: float
) -> str:
    attrs = chapters[0].runs.attrs
    header = ["problem", "definition", "optimizer", "clipping", "schedule"]
    header += ["learning rates", "thresholds", "seeds", "steps", "target", "runs"]
    header += ["compilation (s)", "training (s)"]
    versions = [f"{name} {attrs[name]}" for name in ("stabjax", "jax", "optax")]
    return _RUN.format(
        warmup=100 * WARMUP_FRACTION,
        table=table(header, map(_row, chapters)),
        trained=sum(
            float(chapter.runs.attrs[part])
            for chapter in chapters
            for part in ("compile_seconds", "seconds")
        ),
        seconds=seconds,
        versions=", ".join([*versions, f"Python {platform.python_version()}"]),
        device=attrs["device"],
        command=_COMMAND.format(command=command) if command else "",
    )


def _row(chapter: Chapter) -> list[str]:
    runs, attrs = chapter.runs, chapter.runs.attrs
    thresholds = runs.threshold.to_numpy()
    axes = runs.peak_value.to_numpy(), thresholds[np.isfinite(thresholds)]
    return [
        chapter.label,
        definition(attrs["problem"]),
        *(f"`{attrs[name]}`" for name in ("optimizer", "clipping", "schedule")),
        *map(_extent, axes),
        str(runs.sizes["seed"]),
        str(attrs["steps"]),
        as_number(attrs["target_loss"]),
        f"{attrs['trials']:,}",
        f"{attrs['compile_seconds']:.1f}",
        f"{attrs['seconds']:.1f}",
    ]


def _extent(values: np.ndarray) -> str:
    first, last = as_number(values[0]), as_number(values[-1])
    return first if len(values) == 1 else f"{len(values)} from {first} to {last}"
