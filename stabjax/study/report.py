"""The report of a study, in Markdown: runs and measurements in, text out."""

import platform
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from stabjax.study.findings import answer, contradictions
from stabjax.study.methods import WARMUP_SHARE
from stabjax.study.plan import definition
from stabjax.study.tables import DEFINITIONS, between_the_tables, both_tables
from stabjax.study.text import as_number, table

_SUMMARY = """\
## The answer

{answer}

## The document's two tables, measured on {first}

{tables}"""

_CHAPTER = """\
## The tables on {name}

{text}

{pictures}

"""

_REPORT = """\
# Gradient clipping and learning-rate schedules: what they do

{summary}

{pictures}

## Between the tables: what a schedule does to the curve

{between}

## Where the measurement contradicts the document

{contradictions}

{others}## What the numbers are

{definitions}

## What was run

{run}
"""

_AGAIN = """\
Again, with the same numbers:

    {command}
"""

_WHAT_WAS_RUN = """\
The remedies are a clipping of the gradient and a schedule of the learning rate, which
warms up, where it does, over {warmup:.0f} % of the steps. For each problem one program
trains every learning rate with every threshold (and with none), constant and scheduled,
on every seed.

{table}

{trained:.0f} s to compile and to train, {seconds:.0f} s for the last call, with
pictures; {versions}; {device}.
{again}
Beside this file are the pictures and, for each problem, its runs, NAME.nc, for
`xarray.open_dataset("NAME.nc", engine="scipy")`."""


class Chapter(NamedTuple):
    """A problem of the report."""

    runs: xr.Dataset
    measures: xr.Dataset
    pictures: Mapping[str, str]  # file -> caption

    @property
    def label(self) -> str:
        """The name of the problem, and of methods that are not the default."""
        return str(self.runs.attrs["label"])


class About(NamedTuple):
    """What is said of the whole."""

    overview: Mapping[str, str]  # a picture of all problems: file -> caption
    command: str | None  # that did it
    seconds: float  # that it took


class Sections(NamedTuple):
    """The parts of the report, each in Markdown."""

    answer: str
    between: str
    contradictions: str
    chapters: list[str]  # for each problem its definition and tables
    definitions: str
    run: str


def sections(chapters: Sequence[Chapter], about: About) -> Sections:
    """What the report says, part by part."""
    measured = [chapter.measures for chapter in chapters]
    tables = [
        f"{definition(c.runs.attrs['problem'])}\n\n"
        + both_tables(c.measures, graded=c is chapters[0])
        for c in chapters
    ]
    return Sections(
        answer=answer(measured),
        between=between_the_tables(measured),
        contradictions=contradictions(measured),
        chapters=tables,
        definitions=DEFINITIONS,
        run=_what_was_run(chapters, about),
    )


def summary(chapters: Sequence[Chapter]) -> str:
    """The answer, and the document's tables on the first problem."""
    measured = [chapter.measures for chapter in chapters]
    return _SUMMARY.format(
        answer=answer(measured),
        first=chapters[0].label,
        tables=both_tables(chapters[0].measures, graded=True),
    )


def report(chapters: Sequence[Chapter], about: About) -> str:
    """Everything: the answer first, then tables, pictures, and what was run."""
    text = sections(chapters, about)
    return _REPORT.format(
        summary=summary(chapters),
        pictures=_pictures({**about.overview, **chapters[0].pictures}),
        between=text.between,
        contradictions=text.contradictions,
        others="".join(map(_chapter, chapters[1:], text.chapters[1:])),
        definitions=text.definitions,
        run=text.run,
    )


def _chapter(chapter: Chapter, text: str) -> str:
    return _CHAPTER.format(
        name=chapter.label, text=text, pictures=_pictures(chapter.pictures)
    )


def _pictures(pictures: Mapping[str, str]) -> str:
    shown = (f"![{file[:-4]}]({file})\n\n*{text}*" for file, text in pictures.items())
    return "\n\n".join(shown)


def _what_was_run(chapters: Sequence[Chapter], about: About) -> str:
    attrs = chapters[0].runs.attrs
    header = ["problem", "definition", "optimizer", "clipping", "schedule"]
    header += ["learning rates", "thresholds", "seeds", "steps", "target", "trainings"]
    header += ["compiling, s", "training, s"]
    versions = [f"{name} {attrs[name]}" for name in ("stabjax", "jax", "optax")]
    return _WHAT_WAS_RUN.format(
        warmup=100 * WARMUP_SHARE,
        table=table(header, [_row(chapter) for chapter in chapters]),
        trained=sum(_seconds(chapter.runs) for chapter in chapters),
        seconds=about.seconds,
        versions=", ".join([*versions, f"Python {platform.python_version()}"]),
        device=attrs["device"],
        again=_AGAIN.format(command=about.command) if about.command else "",
    )


def _seconds(runs: xr.Dataset) -> float:
    """How long a problem took, whenever that was."""
    return float(runs.attrs["compile_seconds"]) + float(runs.attrs["seconds"])


def _row(chapter: Chapter) -> list[str]:
    runs = chapter.runs
    thresholds = runs.threshold.to_numpy()[np.isfinite(runs.threshold)]
    spans = [
        f"{len(v)} from {as_number(v[0])} to {as_number(v[-1])}"
        if len(v) > 1
        else as_number(v[0])
        for v in (runs.peak_value.to_numpy(), thresholds)
    ]
    counts = [runs.sizes["seed"], runs.attrs["steps"]]
    return [
        chapter.label,
        definition(runs.attrs["problem"]),
        *(f"`{runs.attrs[name]}`" for name in ("optimizer", "clipping", "schedule")),
        *spans,
        *map(str, counts),
        as_number(runs.attrs["target_loss"]),
        f"{runs.attrs['trials']:,}",
        f"{runs.attrs['compile_seconds']:.1f}",
        f"{runs.attrs['seconds']:.1f}",
    ]
