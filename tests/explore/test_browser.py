"""The explorer in Chromium, as a person uses it. `make explore` runs this on a wheel, with what it requires alone."""

import json
import re
from urllib.parse import urlsplit

import pytest
from support.explorer import chromium, Explorer, PROGRAMS, served, wait

for module in ("marimo", "anywidget", "selenium"):
    pytest.importorskip(module)
if missing := [name for name, path in PROGRAMS.items() if path is None]:
    pytest.skip(f"needs {' and '.join(missing)}: apt-get install chromium chromium-driver", allow_module_level=True)

# A small, quick state.
START = "?d=2&t=20&std=0.3"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with served(tmp_path_factory.mktemp("elsewhere")) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def explorer(browser, address):
    found = Explorer(browser)
    found.open(address + START)
    return found


@pytest.fixture(autouse=True)
def afresh(explorer, address):
    """Begin each test at the same state."""
    explorer.open(address + START)


ALONG = {"singular_values", "matrix", "effective_rank", "speed_law"}
MOVES = {
    "depth": (20, ALONG | {"plane", "depth_map", "geodesic"}),
    "std": (-1.5, ALONG | {"plane", "depth_map"}),
    "t": (3, ALONG),
    "cursor": (20, {"singular_values", "matrix", "effective_rank", "plane", "geodesic"}),
    "seed": (63, {"singular_values", "matrix", "effective_rank", "plane", "geodesic"}),
    "beta": (-1, ALONG - {"speed_law"} | {"plane"}),
    "step": (-1, {"network"}),
    "energy": ("rank-one", {"matrix", "effective_rank", "depth_map", "plane"}),
    "d": ("5", {"singular_values", "matrix", "effective_rank", "plane", "depth_map", "geodesic"}),
}


@pytest.mark.parametrize("name", MOVES)
def test_each_control_changes_its_views(explorer, name):
    value, views = MOVES[name]
    before, link = explorer.views(), explorer.link()
    milliseconds = explorer.move(name, value)
    explorer.rest()
    assert views <= explorer.changed(before)
    assert explorer.link() != link and name in explorer.link()
    print(f"{name}: {milliseconds:.0f} ms")


def test_imbalance_is_there_for_two_layers(explorer):
    disabled = "return page.querySelector('[name=g]').disabled"
    assert explorer.js(disabled)
    explorer.move("depth", 30)
    assert not explorer.js(disabled)
    explorer.rest()
    before = explorer.views()
    explorer.move("g", 1.5)
    explorer.rest()
    assert explorer.changed(before) >= ALONG and "g = 1.5" in explorer.views()["speed_law"]


def test_click_on_an_entry_switches_the_mask(explorer):
    frames = lambda: explorer.views()["matrix"].count('class="frame"')
    assert frames() == 2
    explorer.click("matrix", 0.7, 0.3)  # X12
    assert frames() == 3 and "flips=1" in explorer.link()
    explorer.click("matrix", 0.7, 0.3)
    assert frames() == 2 and "flips" not in explorer.link()


def test_mask_without_entries_is_refused_and_the_page_goes_on(explorer):
    explorer.click("matrix", 0.3, 0.3)
    explorer.click("matrix", 0.7, 0.7)
    assert "no entry is seen" in explorer.text(".warning")
    explorer.click("matrix", 0.7, 0.7)
    assert explorer.text(".warning") == ""


def test_click_follows_a_seed_moves_the_cursor_and_picks_from_the_map(explorer):
    explorer.click("effective_rank", 0.3, 0.4)
    assert re.search(r"seed=\d+", explorer.link()) and "seed 0" not in explorer.text(".words .seed")
    explorer.click("singular_values", 0.5, 0.5)
    cursor = int(re.search(r"cursor=(\d+)", explorer.link())[1])
    assert 10 < cursor < 60 and explorer.js("return page.querySelector('[name=cursor]').value") == str(cursor)
    explorer.click("depth_map", 0.2, 0.2)
    assert "depth=1" in explorer.link() and "std=0.001" in explorer.link()
    assert explorer.text(".words .depth") == "N = 1"


def test_link_restores_the_state(explorer, address, browser):
    for name, value in (("depth", 20), ("std", -1), ("energy", "random"), ("seed", 5), ("cursor", 33)):
        explorer.move(name, value)
    explorer.click("matrix", 0.7, 0.3)
    explorer.rest()
    drawn, link = explorer.views(), explorer.link()
    explorer.open(address + "?" + link)
    assert explorer.views() == drawn and explorer.link() == link
    explorer.open(address + "?seed=1000")
    assert "seed must be from 0 to 99, got 1000" in explorer.text(".warning")


def test_texts_are_shown_to_be_copied(explorer):
    explorer.move("depth", 20)
    for name, words in (("python", "dln.sweep("), ("shell", "dlnjax sweep --d 2")):
        explorer.js("page.querySelector(`button[name=${arguments[0]}]`).click()", name)
        assert words in wait(lambda: explorer.text(".copied")) and "3" in explorer.text(".copied")


def test_noise_without_equilibrium_is_said(explorer):
    explorer.move("beta", -1)
    assert "infinite depth" in explorer.text(".warning") and "paths with noise" in explorer.text(".words .rest")
    explorer.move("depth", 20)
    assert "infinite" not in explorer.text(".warning") and "Lower t end." in explorer.text(".warning")
    explorer.move("t", 0)
    assert explorer.text(".warning") == ""


def test_other_draws_and_back(explorer):
    before = explorer.views()
    explorer.press("key")
    explorer.rest()
    assert explorer.changed(before) >= ALONG and "key=1" in explorer.link()
    explorer.press("reset")
    assert "key" not in explorer.link()


def test_share_at_rest_is_shown(explorer):
    explorer.move("t", 6)
    explorer.rest()
    assert re.match(r"\d+ of 100 seeds at rest", explorer.text(".words .rest"))


@pytest.mark.parametrize("width", [1280, 850, 400])
def test_nothing_is_too_wide(explorer, browser, width):
    size = {"width": width, "height": 1200, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert explorer.js("return document.documentElement.scrollWidth") <= width
        rights = explorer.js(
            "return [...page.querySelectorAll('figure:not([hidden])')].map((f) => f.getBoundingClientRect().right)"
        )
        assert max(rights) <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_browser_asks_this_machine_alone_and_finds_no_error(explorer, browser, address):
    for log in ("performance", "browser"):
        browser.get_log(log)
    explorer.open(address + START)
    for name, (value, _) in MOVES.items():
        explorer.move(name, value)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    asked += [e["params"]["url"] for e in events if e["method"] == "Network.webSocketCreated"]
    hosts = {urlsplit(url).hostname for url in asked if urlsplit(url).scheme not in ("data", "blob")}
    assert hosts == {"127.0.0.1"}
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
