"""The report as one HTML file that needs no network: text, pictures, explorer."""

import base64
import json
import re
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

from stabjax.study.findings import methods_of
from stabjax.study.plan import slug
from stabjax.study.report import About, Chapter, Sections, sections

_METRICS = {
    "final_loss": "final loss, median of the seeds",
    "held": "share of seeds that do not diverge",
    "reached": "share of seeds that end at the target",
    "steps_to_target": "steps to the target, median of the seeds",
}
_SCHEDULED = {0: "constant rate", 1: "schedule"}


def page(chapters: Sequence[Chapter], folder: Path, about: About) -> str:
    """The report as HTML: the answer, an explorer of all runs, tables, pictures.

    Everything stands in the file: figures, the pictures of `folder`, the script that
    draws (Plotly's). A content security policy keeps it from asking for more.
    """
    text: Sections = sections(chapters, about)
    source = files("stabjax.study").joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["markdown"] = _html
    environment.filters["slug"] = slug
    return environment.from_string(source).render(
        text=text,
        chapters=[
            {"name": c.label, "text": t, "pictures": _embedded(c.pictures, folder)}
            for c, t in zip(chapters, text.chapters, strict=True)
        ],
        overview=_embedded(about.overview, folder),
        data=_script_safe(_explorer(chapters)),
        metrics=_METRICS,
        scheduled=_SCHEDULED,
        plotly=Markup(get_plotlyjs()),  # noqa: S704 - a library's, not input
    )


def _explorer(chapters: Sequence[Chapter]) -> dict[str, dict[str, Any]]:
    """What there is to explore: problem -> methods -> maps and curves."""
    found: dict[str, dict[str, Any]] = {}
    names = methods_of([chapter.measures for chapter in chapters])
    for name, chapter in zip(names, chapters, strict=True):
        problem = found.setdefault(str(chapter.runs.attrs["problem"]), {})
        problem[name] = explored(chapter.runs)
    return found


def explored(runs: xr.Dataset) -> dict[str, Any]:
    """What the explorer shows of a problem: maps over rate and threshold, and curves.

    Nested lists over [scheduled][threshold][rate]; None is infinity: diverged, or
    never reached.
    """
    runs = runs.transpose("scheduled", "threshold", "peak_value", "seed", ...)
    target = float(runs.attrs["target_loss"])
    maps = {
        "final_loss": runs.final_loss.reduce(np.median, "seed"),
        "held": (runs.status == 0).mean("seed"),
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
    """Nested lists of three digits, which is what an eye sees; None for infinity."""

    def told(value: Any) -> Any:
        if isinstance(value, list):
            return [told(one) for one in value]
        return float(f"{value:.3g}") if np.isfinite(value) else None

    return told(values.to_numpy().astype(float).tolist())


def _html(text: str) -> Markup:
    """Markdown as HTML, in which tables may be wider than a phone."""
    text = re.sub(r"\$([^$]*)\$", r"`\1`", text)  # formulas, in words of code
    reader = markdown.Markdown(extensions=["tables", "sane_lists"])
    reader.preprocessors.deregister("html_block")  # a name with < is no tag
    reader.inlinePatterns.deregister("html")
    html = reader.convert(text)
    html = html.replace("<table>", '<div class="wide" tabindex="0"><table>')
    html = html.replace("</table>", "</table></div>")
    return Markup(html.replace("<th>", '<th scope="col">'))  # noqa: S704 - our own text


def _embedded(pictures: Mapping[str, str], folder: Path) -> list[tuple[str, str]]:
    """The pictures as data, each with its caption."""
    return [
        (base64.b64encode((folder / file).read_bytes()).decode("ascii"), caption)
        for file, caption in pictures.items()
    ]


def _script_safe(data: Any) -> Markup:
    """JSON that cannot end the script it stands in."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - escaped here
