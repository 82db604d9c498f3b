"""The report as a page: read by a real browser, which must ask for nothing else."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from stabjax import study
from stabjax.study.page import _html, _json, _packed, _webp, explored

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    sizes = study.Sizes(rates=5, thresholds=3, seeds=4, steps=40)
    two = [study.Methods(name, "linear_schedule") for name in ("zclip", "adagc")]
    plans = [
        *study.plans(["quadratic"], sizes),
        *study.plans(["cliff"], sizes, two),
    ]
    return study.run(plans, folder=tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def text(done):
    return done.report.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser(done):
    if not (BROWSER and DRIVER):
        pytest.skip("no browser: install Debian's chromium and chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver")
    ui = pytest.importorskip("selenium.webdriver.support.ui")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1200,1400",
    ):
        options.add_argument(flag)
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    try:
        driver.get(done.report.as_uri())
        wait = ui.WebDriverWait(driver, 30)
        wait.until(cell_text)  # decompressed after the page has loaded
        yield driver
    finally:
        driver.quit()


def choose(browser, control, words):
    browser.execute_script(
        "const s = document.getElementById(arguments[0]);"
        "s.selectedIndex = [...s.options].findIndex(o => o.text === arguments[1]);"
        "s.dispatchEvent(new Event('change'));",
        control,
        words,
    )


def _outside_scripts(text):
    return re.sub(r"<script.*?</script>", "", text, flags=re.S)


def cell_text(browser):
    return browser.find_element("id", "cell").text


def test_cells_are_the_medians_of_the_runs(done):
    runs = done.runs["quadratic"]
    shown = explored(runs)
    some = runs.sel(scheduled=1.0, threshold=1.0).isel(peak_value=2)
    steps = np.median(some.steps_to_target)
    cell = {name: np.array(v, float)[1, 1, 2] for name, v in shown["maps"].items()}
    np.testing.assert_allclose(cell["final_loss"], np.median(some.final_loss), 6e-3)
    np.testing.assert_allclose(cell["steps_to_target"], steps, 6e-3)
    assert cell["stable"] == (some.status == 0).mean()
    assert cell["reached"] == (some.final_loss <= runs.attrs["target_loss"]).mean()
    assert np.shape(shown["curves"]) == (2, 4, 5, len(shown["steps"]))
    assert shown["thresholds"][-1] is None  # JSON knows no infinity


def test_curves_of_all_cells_agree_with_those_of_the_chosen_runs(done):
    runs = done.runs["quadratic"]
    chosen = runs.sel(treatment="both", rate="tuned")
    curve = runs.median_loss.sel(
        threshold=float(chosen.chosen_threshold),
        scheduled=float(chosen.chosen_scheduled),
        peak_value=float(chosen.chosen_rate),
    )
    same = chosen.loss.sel(step=curve.shown_step).reduce(np.median, "seed")
    assert len(curve) == 40
    np.testing.assert_array_equal(curve, same)


def test_the_page_says_what_the_report_says(done, text):
    assert done.report.name == "report.html"
    beside = (done.report.parent / "report.md").read_text(encoding="utf-8")
    first_number = re.search(r"[\d,]+ runs on 2 problems", beside)[0]
    assert first_number in text
    assert text.count("<figure>") == beside.count("![") == 13
    assert "](" not in _outside_scripts(text)


def test_names_are_escaped():
    html = _html("## <b>mine</b>\n\n<i>\n\n| <lambda> |\n| --- |\n| 1 < 2 |\n")
    assert re.findall("<[bil]", html) == []
    assert "&lt;b&gt;mine" in html
    assert "<td>1 &lt; 2</td>" in html


def test_the_page_is_self_contained(text):
    page = _outside_scripts(text)
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "default-src 'none'" in page


def test_a_report_on_22_problems_takes_less_than_6_megabytes(done, text):
    shown = explored(done.runs["quadratic"])
    cells = np.size(shown["maps"]["stable"])
    data = 33 * 14 * 2 / cells * len(_packed(_json(shown)))  # at the default size
    pictures = sum(map(len, re.findall(r'src="([^"]*)"', text))) / len(done.runs)
    fixed = len(re.search(r'<script id="plotly".*?</script>', text, flags=re.S)[0])
    rest = (len(_outside_scripts(text)) - pictures * len(done.runs)) / len(done.runs)
    assert data > 10e3 and pictures > 10e3 and rest > 5e3 and fixed > 1e6
    assert fixed + 22 * (data + pictures + rest) < 6e6


def test_colors_of_embedded_pictures_are_those_of_the_files(done, text):
    file = done.report.parent / "quadratic-map.png"
    embedded = base64.b64decode(_webp(file))
    assert len(embedded) < file.stat().st_size / 2
    one, two = (
        np.asarray(Image.open(source).convert("RGB"), float)
        for source in (file, io.BytesIO(embedded))
    )
    assert two.shape == one.shape
    assert np.mean(np.abs(one - two).max(-1) > 20) < 0.01
    np.testing.assert_array_equal(one[0, 0], two[0, 0])  # white


def test_it_loads_without_errors_and_asks_for_nothing_else(browser, done):
    assert browser.title.startswith("Gradient clipping")
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    events = [json.loads(e["message"]) for e in browser.get_log("performance")]
    sent = [
        e["message"]["params"]["request"]["url"]
        for e in events
        if e["message"]["method"] == "Network.requestWillBeSent"
    ]
    own = done.report.as_uri()
    assert own in sent
    assert all(url == own or url.startswith(("data:", "blob:")) for url in sent)


def test_a_cell_that_is_pointed_at_shows_its_numbers_and_its_curve(browser):
    from selenium.webdriver import ActionChains

    choose(browser, "problem", "quadratic")
    before = cell_text(browser)
    rectangle = browser.execute_script(
        "const box = document.querySelector('#map .nsewdrag').getBoundingClientRect();"
        "document.getElementById('map').scrollIntoView({block: 'center'});"
        "return [box.width, box.height];"
    )
    plot = browser.find_element("css selector", "#map .nsewdrag")
    move = ActionChains(browser).move_to_element_with_offset
    # The upper right corner: the largest rate, no clipping.
    corner = int(0.45 * rectangle[0]), -int(0.4 * rectangle[1])
    move(plot, *corner).pause(0.5).perform()
    after = cell_text(browser)
    assert after != before
    assert "learning rate 100, threshold ∞: median final loss: diverged" in after
    assert browser.find_element("id", "rate").get_attribute("value") == "4"


def test_problem_method_measure_and_cell_can_be_chosen(browser):
    choose(browser, "problem", "quadratic")
    choose(browser, "scheduled", "constant rate")
    choose(browser, "rate", "0.1")
    choose(browser, "threshold", "∞")
    assert "4 of 4 seeds reach the target" in cell_text(browser)
    choose(browser, "scheduled", "schedule")
    assert ", schedule, learning rate 0.1, " in cell_text(browser)
    choose(browser, "metric", "fraction of stable seeds")
    title = browser.find_element("css selector", "#map .gtitle").text
    assert title == "fraction of stable seeds"
    choose(browser, "problem", "cliff")
    assert cell_text(browser).startswith("cliff, zclip, linear_schedule, schedule, ")
    choose(browser, "methods", "adagc, linear_schedule")
    assert cell_text(browser).startswith("cliff, adagc, linear_schedule, schedule, ")
    title = browser.find_element("css selector", "#map .ytitle").text
    assert title == "threshold, relative_clip"
    choose(browser, "methods", "zclip, linear_schedule")
    choose(browser, "threshold", "0.3")
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


def test_it_fits_a_phone_and_can_be_read_aloud(browser):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True},
    )
    fits = "return document.scrollingElement.scrollWidth <= window.innerWidth"
    assert browser.execute_script(fits)
    nameless = (
        "return [...document.querySelectorAll('img:not([alt]), select')]"
        ".filter(e => e.tagName === 'IMG' || !e.labels.length).length"
    )
    assert browser.execute_script(nameless) == 0
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
