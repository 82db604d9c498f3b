"""The HTML report, a single file that works offline."""

import base64
import gzip
import io
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
from PIL import Image
from plotly.offline import get_plotlyjs

from stabjax.study.answer import methods_of
from stabjax.study.plan import slug
from stabjax.study.report import TITLE, Chapter, Section

_METRICS = {
    "final_loss": "median final loss",
    "stable": "fraction of stable seeds",
    "reached": "fraction of seeds that reach the target",
    "steps_to_target": "median steps to the target",
}
_SCHEDULED = {0: "constant rate", 1: "schedule"}


def page(report: Sequence[Section], chapters: Sequence[Chapter], folder: Path) -> str:
    """Returns the HTML report with an interactive explorer of all runs.

    The file embeds the plots from `folder`, the data and the Plotly script, all of them
    compressed. A content security policy blocks all network requests.
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
        data=_packed(_json(_explorer(chapters))),
        metrics=_METRICS,
        scheduled=_SCHEDULED,
        plotly=_packed(get_plotlyjs()),
    )


def _explorer(chapters: Sequence[Chapter]) -> dict[str, dict[str, Any]]:
    """Returns the maps and curves of each problem, grouped by method."""
    found: dict[str, dict[str, Any]] = {}
    names = methods_of([chapter.measures for chapter in chapters])
    for name, chapter in zip(names, chapters, strict=True):
        problem = found.setdefault(str(chapter.runs.attrs["problem"]), {})
        problem[name] = explored(chapter.runs)
    return found


def explored(runs: xr.Dataset) -> dict[str, Any]:
    """Returns the data of the explorer as lists, nested by schedule, threshold, rate.

    None represents infinity, which means that the run diverged or did not reach the
    target.
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
    """Converts values to nested lists with three digits and None for infinity."""

    def rounded(value: Any) -> Any:
        if isinstance(value, list):
            return [rounded(one) for one in value]
        return float(f"{value:.3g}") if np.isfinite(value) else None

    return rounded(values.to_numpy().astype(float).tolist())


def _html(text: str) -> Markup:
    """Converts Markdown to HTML with tables that scroll on narrow screens."""
    reader = markdown.Markdown(extensions=["tables", "sane_lists"])
    reader.preprocessors.deregister("html_block")  # escapes names such as <lambda>
    reader.inlinePatterns.deregister("html")
    html = reader.convert(text)
    html = html.replace("<table>", '<div class="wide" tabindex="0"><table>')
    html = html.replace("</table>", "</table></div>")
    return Markup(html.replace("<th>", '<th scope="col">'))  # noqa: S704 - no raw HTML


def _embedded(pictures: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Returns base64-encoded pictures with their captions."""
    return {_webp(folder / file): caption for file, caption in pictures.items()}


def _webp(file: Path) -> str:
    """Converts a picture to lossless WebP with 256 colors, encoded as base64."""
    # A quarter of the size of the PNG. The octree changes the colors of areas by less
    # than 20/255. A median cut to 64 colors changes cells of heatmaps by up to 46/255.
    palette = Image.open(file).convert("RGB").quantize(method=Image.Quantize.FASTOCTREE)
    buffer = io.BytesIO()
    picture = palette.convert("RGB").point(lambda v: 255 if v > 250 else v)  # white
    picture.save(buffer, "webp", lossless=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _packed(text: str) -> str:
    """Compresses text, which the page decompresses. Encoded as base64."""
    compressed = gzip.compress(text.encode("utf-8"), mtime=0)
    return base64.b64encode(compressed).decode("ascii")


def _json(data: Any) -> str:
    """Converts data to compact JSON, which does not support infinity or NaN."""
    return json.dumps(data, allow_nan=False, separators=(",", ":"))
