"""The report as one HTML file that works offline: text, pictures, explorer."""

import base64
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import markdown
import numpy as np
import xarray as xr
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from stabjax.study.answer import methods_of
from stabjax.study.plan import slug
from stabjax.study.report import TITLE, Chapter, Section

_METRICS = {
    "final_loss": "final loss, median of the seeds",
    "stable": "fraction of seeds that do not diverge",
    "reached": "fraction of seeds that end at the target",
    "steps_to_target": "steps to the target, median of the seeds",
}
_SCHEDULED = {0: "constant rate", 1: "schedule"}


def page(report: Sequence[Section], chapters: Sequence[Chapter], folder: Path) -> str:
    """Returns the report as HTML, with an explorer of all runs.

    The file contains the pictures of `folder`, the data and Plotly's script. A content
    security policy blocks all requests.
    """
    source = files("stabjax.study").joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["markdown"] = _html
    environment.filters["slug"] = slug
    return environment.from_string(source).render(
        title=TITLE,
        sections=[
            section._replace(pictures=_embedded(section.pictures, folder))
            for section in report
        ],
        data=_script_safe(_explorer(chapters)),
        metrics=_METRICS,
        scheduled=_SCHEDULED,
        plotly=Markup(get_plotlyjs()),  # noqa: S704 - Plotly's own text
    )


def _explorer(chapters: Sequence[Chapter]) -> dict[str, dict[str, Any]]:
    """The maps and curves of each problem and each of its methods."""
    found: dict[str, dict[str, Any]] = {}
    names = methods_of([chapter.measures for chapter in chapters])
    for name, chapter in zip(names, chapters, strict=True):
        problem = found.setdefault(str(chapter.runs.attrs["problem"]), {})
        problem[name] = explored(chapter.runs)
    return found


def explored(runs: xr.Dataset) -> dict[str, Any]:
    """Returns what the explorer shows: maps over rate and threshold, and curves.

    Nested lists over [scheduled][threshold][rate]. None stands for infinity: diverged,
    or the target is never reached.
    """
    runs = runs.transpose("scheduled", "threshold", "peak_value", "seed", ...)
    target = float(runs.attrs["target_loss"])
    maps = {
        "final_loss": runs.final_loss.reduce(np.median, "seed"),
        "stable": (runs.status == 0).mean("seed"),
        "reached": (runs.final_loss <= target).mean("seed"),
        "steps_to_target": runs.steps_to_target.reduce(np.median, "seed"),
    }
    curves = runs.median_loss.transpose(
        "scheduled", "threshold", "peak_value", "shown_step"
    )
    return {
        "rates": _rounded(runs.peak_value),
        "thresholds": _rounded(runs.threshold),
        "threshold": runs.threshold.attrs["long_name"],
        "seeds": runs.sizes["seed"],
        "steps": curves.shown_step.to_numpy().tolist(),
        "target": target,
        "maps": {name: _rounded(values) for name, values in maps.items()},
        "curves": _rounded(curves),
    }


def _rounded(values: xr.DataArray) -> Any:
    """Nested lists of numbers with three digits; None for infinity."""

    def rounded(value: Any) -> Any:
        if isinstance(value, list):
            return [rounded(one) for one in value]
        return float(f"{value:.3g}") if np.isfinite(value) else None

    return rounded(values.to_numpy().astype(float).tolist())


def _html(text: str) -> Markup:
    """Markdown as HTML, with tables that scroll on a narrow screen."""
    reader = markdown.Markdown(extensions=["tables", "sane_lists"])
    reader.preprocessors.deregister("html_block")  # text only: <lambda> is not a tag
    reader.inlinePatterns.deregister("html")
    html = reader.convert(text)
    html = html.replace("<table>", '<div class="wide" tabindex="0"><table>')
    html = html.replace("</table>", "</table></div>")
    return Markup(html.replace("<th>", '<th scope="col">'))  # noqa: S704 - no raw HTML


def _embedded(pictures: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The pictures as data, each with its caption."""
    return {
        base64.b64encode((folder / file).read_bytes()).decode("ascii"): caption
        for file, caption in pictures.items()
    }


def _script_safe(data: Any) -> Markup:
    """JSON that cannot end the script around it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - escaped here
