"""The explorer in a browser: its server, Chromium, and the page as a person uses it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

PROGRAMS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
# The longest that the programs of one size may take to compile, in seconds.
COMPILING = 300
# The widget lies in a shadow of the page of marimo.
FIND = """
const find = (root) => {
  const hit = root.querySelector(".explorer");
  if (hit) return hit;
  for (const node of root.querySelectorAll("*")) {
    const found = node.shadowRoot && find(node.shadowRoot);
    if (found) return found;
  }
};
const page = find(document);
"""


@contextmanager
def served(folder):
    """The address of the explorer, served by the command, whose output is in the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("dlnjax")), "explore", "--no-browser", "--port", str(port)]
    address = f"http://127.0.0.1:{port}/"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
        try:
            wait(lambda: _answers(address))
            yield address
        finally:
            os.killpg(server.pid, 15)
            server.wait()


def _answers(address):
    try:
        urllib.request.urlopen(address, timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def chromium(width=1280, height=1400):
    """Chromium without a window, and without a name server that could answer it."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = PROGRAMS["chromium"]
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--window-size={width},{height}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(executable_path=PROGRAMS["chromedriver"]))
    try:
        yield driver
    finally:
        driver.quit()


def wait(condition, seconds=30):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "the page did not answer"
        time.sleep(0.05)
    return found


class Explorer:
    """The page as a person sees it."""

    def __init__(self, browser):
        self.browser = browser

    def js(self, script, *arguments):
        return self.browser.execute_script(FIND + script, *arguments)

    def open(self, address):
        self.browser.get(address)
        wait(lambda: self.js("return Boolean(page && page.dataset.answer)"), COMPILING)
        self.rest()

    def rest(self):
        """Wait until all work is done."""
        wait(lambda: self.js("return page.dataset.left === '0'"), COMPILING)

    def move(self, name, value):
        """Move a control, and return the milliseconds until the drawings that answer are on the screen."""
        before = self.answer()["n"]
        self.js(
            "const c = page.querySelector(`[name=${arguments[0]}]`); c.value = arguments[1];"
            "c.dispatchEvent(new Event(c.tagName === 'SELECT' ? 'change' : 'input', {bubbles: true}));",
            name,
            value,
        )
        return self.answered(before, name)

    def press(self, name):
        before = self.answer()["n"]
        self.js("page.querySelector(`button[name=${arguments[0]}]`).click()", name)
        return self.answered(before, "")

    def click(self, view, x, y):
        """Click at a place of a view, as parts of its width and height."""
        before = self.answer()["n"]
        self.js(
            "const svg = page.querySelector(`[data-view=${arguments[0]}] svg`), box = svg.getBoundingClientRect();"
            "svg.dispatchEvent(new MouseEvent('click', {bubbles: true, composed: true,"
            "clientX: box.left + arguments[1] * box.width, clientY: box.top + arguments[2] * box.height}));",
            view,
            x,
            y,
        )
        return self.answered(before, "")

    def answered(self, before, name):
        answer = wait(lambda: (now := self.answer())["n"] > before and now, COMPILING)
        assert not name or name in answer["moved"]
        return answer["ms"]

    def answer(self):
        return json.loads(self.js("return page.dataset.answer || '{\"n\": 0}'"))

    def views(self):
        found = self.js(
            "return [...page.querySelectorAll('figure')].map((f) => [f.dataset.view, f.hidden ? '' : f.innerHTML])"
        )
        return dict(found)

    def changed(self, before):
        return {view for view, drawn in self.views().items() if drawn != before[view]}

    def text(self, selector):
        return self.js("return page.querySelector(arguments[0]).textContent", selector)

    def link(self):
        return urlsplit(self.browser.current_url).query
