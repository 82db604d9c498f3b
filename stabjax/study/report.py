"""The report of a study: sections of Markdown text with pictures."""

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

TITLE = "Gradient clipping and learning-rate schedules: what they do"

_RUN = """\
The treatments are gradient clipping and a learning-rate schedule, which warms up, if it
does, over {warmup:.0f} % of the steps. For each problem one program trains every
learning rate with every threshold (and without clipping), with a constant rate and with
the schedule, on every seed.

{table}

{trained:.0f} s to compile and train; {seconds:.0f} s for the last call, including
pictures; {versions}; {device}.
{command}
This folder also holds the pictures and the runs of each problem, NAME.nc: read them
with `xarray.open_dataset("NAME.nc", engine="scipy")`."""

_COMMAND = """\
To reproduce these numbers:

    {command}
"""

_DEFINITIONS = f"""\
- *Baseline*: no clipping and a constant learning rate. *Both*: clipping and a schedule.
- *Diverged*: a loss that is not finite, or above 1,000 times the first.
- *Ends at the target*: the final loss is at most the problem's target.
- *Runs*: all learning rates and seeds of a treatment at one threshold, the middle one
  of the sweep, fixed in advance. Rows marked *tuned* have the best of all thresholds
  instead, and so many more runs to choose from.
- Intervals are 95 %. For fractions over all rates the seeds are resampled, as runs of
  one seed are not independent; where all seeds agree, both ends equal the fraction. For
  fractions of seeds at one rate they are Wilson's.
- *Tuned*: the learning rate with the smallest median final loss; among equals (all
  losses below {SOLVED:g} of the target) the fewest steps to the target, then the
  smallest threshold, then the smallest rate. It is chosen and judged on the same seeds,
  which flatters all treatments alike.
- *Untuned*: the rate of the sweep nearest to {UNTUNED_FACTOR} times the best one for
  the baseline, the same for all treatments: a learning rate that is too large.
- *Points*: percentage points, treatment - baseline. *Times*: steps of the treatment
  over those of the baseline, median over the seeds at which the baseline reaches the
  target. Empty: at none.
- *Steps to the target*: until the recorded loss is at or below it and stays there
  (where a loss is that of a minibatch: the mean over the last 5 % of the steps). Norms
  in the first table are those of these steps (of all, where it does not).
- *Decades of learning rates that train*: the number of rates at which at least half the
  seeds end at the target, times the distance of two rates in decades (factors of ten).
- *Rises*: from one recorded step to the next. *Roughness*: mean absolute second
  difference of the recorded log10 loss. *Late*: the last tenth of the steps. *Swing*:
  largest - smallest loss.
- Treatments share seeds, and a seed fixes start, minibatches and noise. They are
  compared seed by seed."""


class Chapter(NamedTuple):
    """The runs, measures and pictures (file -> caption) of a problem."""

    runs: xr.Dataset
    measures: xr.Dataset
    pictures: Mapping[str, str]

    @property
    def label(self) -> str:
        """The name of the problem, and of methods that are not the default."""
        return str(self.runs.attrs["label"])


class Section(NamedTuple):
    """A section of the report: its title, Markdown text, and pictures with captions."""

    title: str
    text: str
    pictures: Mapping[str, str] = {}

    def markdown(self) -> str:
        """The section in Markdown."""
        shown = (f"![{f[:-4]}]({f})\n\n*{text}*" for f, text in self.pictures.items())
        return "\n\n".join([f"## {self.title}", self.text, *shown])


def sections(
    chapters: Sequence[Chapter],
    overview: Mapping[str, str],
    command: str | None,
    seconds: float,
) -> list[Section]:
    """Returns the report: the answer first, then the evidence for it.

    Args:
      chapters: the problems.
      overview: the picture of all problems: file -> caption.
      command: the command that reproduces the study, or None.
      seconds: the duration of the study.
    """
    measured = [chapter.measures for chapter in chapters]
    return [
        Section("The answer", headline(measured), overview),
        Section("What to do", advice(measured)),
        Section("In numbers", numbers(measured)),
        *map(_tables, chapters, [True] + [False] * len(chapters)),
        Section("Curves: the effect of a schedule", curve_tables(measured)),
        Section("Every claim of the tutorial, tested", verdicts(measured)),
        Section("Definitions", _DEFINITIONS),
        Section("What was run", _provenance(chapters, command, seconds)),
    ]


def summary(report: Sequence[Section]) -> str:
    """Returns the answer, and the tutorial's tables on the first problem."""
    return "\n\n".join(s._replace(pictures={}).markdown() for s in report[:4])


def markdown(report: Sequence[Section]) -> str:
    """Returns the whole report in Markdown."""
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
    header += ["compiling, s", "training, s"]
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
