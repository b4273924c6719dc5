"""The report, as a reader's browser shows it: whole without a network, and as wide as the screen."""

# ruff: noqa: RUF001

import json
import math
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from support.two_figures import TWO

from dlnjax import figures
from dlnjax._cli import main
from dlnjax.figures import _report, Number
from dlnjax.figures._figure import basis, measured, off_by


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        for name in figures.FIGURES.copy():
            patch.delitem(figures.FIGURES, name)
        for name, figure in TWO.items():
            patch.setitem(figures.FIGURES, name, figure)
        assert main(["reproduce", "--out", str(folder), "--seed", "3", "--seeds", "12", "--workers", "1"]) == 0
    return folder / "report.html"


class _Page(HTMLParser):
    """Every element with its attributes, and the text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def test_page_needs_no_other_file_and_no_network(report):
    page = _Page(report.read_text())
    for tag, attrs in page.elements:
        for name in ("src", "href", "srcset", "action"):
            assert attrs.get(name, "#")[:1] == "#" or attrs[name].startswith("data:"), (tag, attrs)
        assert tag != "script"
    assert not re.search(r"@import|url\(", report.read_text())


def test_page_shows_every_figure_with_its_text_numbers_and_command(report):
    page = _Page(report.read_text())
    text = " ".join("".join(page.text).split())
    images = [attrs for tag, attrs in page.elements if tag == "img"]
    assert len(images) == len(TWO)
    ids = {attrs["id"] for _, attrs in page.elements if "id" in attrs}
    for (name, figure), image in zip(TWO.items(), images, strict=True):
        assert figure.title in image["alt"] and image["aria-describedby"] in ids
        assert figure.title in text and " ".join(figure.text.split()) in text and "d = 5, E = ∑ (Xii − 1)2" in text
        assert f"dlnjax reproduce --figure {name} --seeds 12 --seed 3" in text and f"dlnjax plot out/{name}" in text
    assert "Size12 random starts for each ensemble, seed 3" in text
    # What looks like HTML is shown as it is.
    assert "<b>one</b>" in text and "mean & more, where x < 1" in text and "Of few draws" in text
    assert all(attrs["href"][1:] in ids for tag, attrs in page.elements if tag == "a")
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1 and all(b <= a + 1 for a, b in pairwise(headings))
    for word in ("Python 3", "jax ", "numpy ", " cores", "UTC, in "):
        assert word in text


@pytest.mark.parametrize(
    ("value", "error", "shown"),
    [
        (3.02649, 0.0112, "3.026 ± 0.011"),
        (0.94, 0.034, "0.940 ± 0.034"),
        (1472.96, 63.0, "1473 ± 63"),
        (1.0, 0.0, "1"),
        # The error of a mean of equal numbers is one of rounding.
        (2.1213203, 4e-14, "2.12132"),
        (1.961e-10, 2e-11, "1.961e-10 ± 2.0e-11"),
        (float("nan"), float("nan"), "nan"),
        (8.0, 996.0, "8 ± 1.0e+03"),
    ],
)
def test_value_is_shown_to_the_second_digit_of_its_error(value, error, shown):
    assert _report.with_error(value, error) == shown


def test_distance_in_standard_errors_is_left_out_where_the_error_is_one_of_rounding():
    exact = 4.5**0.5
    for row, off, how in (
        (measured("sampled", (1.08, 0.01), "1.05"), 3.0, "statistics"),
        (Number("beyond three errors of an exact value", "-", 1.04, 0.01, "agrees", 1.0), 4.0, "bound"),
        (measured("a mean of equal numbers", (exact, 4e-14), "2.12"), None, "exact value"),
        (measured("its logarithm", (0.326606, 8e-15), "0.3266"), None, "exact value"),
        (measured("no error", (1.374493, 0.0), "1.374493"), None, "exact value"),
        (measured("within the rounding of the expected value", (5.12, 0.0002), "5.1"), None, "statistics"),
        (measured("nothing expected", (1.0, 0.1)), None, ""),
        (Number("zero is exact", "-", 0.03, 0.01, "agrees", 0.0), 3.0, "statistics"),
        (Number("far, and yet within a bound", "-", 1.01, 0.001, "agrees", 1.0), 10.0, "bound"),
        (Number("a word", "drastic gap", 0.9, 0.01, "agrees"), None, "wording"),
        (Number("a p-value", "-", 0.3, 0.0, "agrees"), None, "bound"),
    ):
        assert off_by(row) == pytest.approx(off) if off else math.isnan(off_by(row)), row
        assert basis(row) == how, row


def test_no_page_prints_a_ratio_to_rounding(report):
    """The kind of row that once read "+340883268.2 ... agrees"."""
    row = _report._row(measured("its log10", (0.326606628, 8.0e-15), "0.3266"), "a closed form")
    assert (row["off"], row["measured"], row["verdict"], row["source"]) == ("", "0.326607", "agrees", "a closed form")


def test_every_verdict_word_stands_in_the_legend(report):
    text = re.sub(r"\s*\n\s*", "", "".join(_Page(report.read_text()).text))
    legend = text[text.index("What the verdicts mean") : text.index("Contents")]
    assert "agrees" in legend and "measuredthere is nothing to compare it with" in legend
    assert f"near it{_report.OTHER}" in legend
    assert "by statisticsThe number is a mean" in legend and "disagrees" not in legend
    assert "expected from an independent computation with other draws" in text


_MEASURE = """
const images = [...document.images].map(image => {
  const box = image.getBoundingClientRect();
  const seen = image.checkVisibility({opacityProperty: true, visibilityProperty: true});
  return {alt: image.alt, loaded: image.complete && image.naturalWidth > 0, seen, left: box.left, right: box.right};
});
const page = document.documentElement;
return {images, window: window.innerWidth, wide: page.scrollWidth, free: page.clientWidth};
"""


@pytest.mark.parametrize("width", [1280, 400])
def test_browser_without_network_shows_every_figure_and_nothing_too_wide(report, browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for log in ("performance", "browser"):
        browser.get_log(log)
    browser.get(report.as_uri())
    found = browser.execute_script(_MEASURE)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert report.as_uri() in asked
    assert [url for url in asked if url != report.as_uri() and not url.startswith("data:")] == []
    assert [e["params"] for e in events if e["method"] == "Network.loadingFailed"] == []
    assert browser.get_log("browser") == []
    assert found["window"] == width and found["wide"] <= found["free"]
    assert len(found["images"]) == len(TWO)
    for image in found["images"]:
        assert image["loaded"] and image["seen"], image
        assert 0 <= image["left"] < image["left"] + 300 < image["right"] <= found["free"], image


@pytest.fixture(scope="module")
def with_claims(report, tmp_path_factory):
    """A folder in which `dlnjax claims` has written beside a report."""
    folder = tmp_path_factory.mktemp("claims") / "out"
    shutil.copytree(report.parent, folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in figures.FIGURES.copy():
            patch.delitem(figures.FIGURES, name)
        for name, figure in TWO.items():
            patch.setitem(figures.FIGURES, name, figure)
        assert main(["claims", "--only", "(2.1", "--only", "Theorem 2.1", "--draws", "1", "--out", str(folder)]) == 0
    return folder


def test_statements_are_typeset(with_claims):
    page = (with_claims / "claims.html").read_text()
    assert "<i>A</i><sub>p+1</sub> = <i>Q</i><sub>N</sub> Λ<sup>(N−p)/N</sup>" in page.replace("<i>Λ</i>", "Λ")
    assert not re.search(r"Lambda|Sigma\^|_\{", page)


def test_report_counts_the_statements_and_links_to_their_page(report, with_claims):
    page = _Page((with_claims / "report.html").read_text())
    text = " ".join("".join(page.text).split())
    assert "The statements of the thesis holds: 3 corrected: 2 fails: 1" in text
    links = [attrs["href"] for tag, attrs in page.elements if tag == "a"]
    assert "claims.html" in links and "#statements" in links
    assert "The statements of the thesis" not in report.read_text()
    assert [attrs for tag, attrs in page.elements if tag == "img"]


@pytest.mark.parametrize("width", [1280, 400])
def test_browser_shows_the_statements_and_nothing_too_wide(with_claims, browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get((with_claims / "claims.html").as_uri())
    found = browser.execute_script(_MEASURE)
    assert found["window"] == width and found["wide"] <= found["free"]
    assert len(browser.find_elements("tag name", "article")) == 6
