"""The bar of a run of several figures."""

import re

import pytest

from dlnjax import _terminal
from dlnjax._commands import _progress


@pytest.mark.parametrize("asked", [True, False])
def test_no_color_is_honoured(asked, monkeypatch, capsys):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color"}.items() | (
        {("NO_COLOR", "1")} if asked else set()
    ):
        monkeypatch.setenv(name, value)
    _terminal.console.cache_clear()
    try:
        with _progress.RunProgress({"a": 1}, {"a": "title"}) as progress:
            progress.begin("a")
            progress.end("a", kept=False)
        _terminal.console().print("[red]red")
    finally:
        _terminal.console.cache_clear()
    said = capsys.readouterr().err
    assert "title" in said and ("\x1b[3" in said) is not asked


def test_time_left_follows_the_pace_of_what_is_done(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_progress.time, "perf_counter", lambda: now[0])
    progress = _progress.RunProgress({"a": 10, "b": 20, "c": 100}, dict.fromkeys("abc", ""))
    progress.begin("a")
    now[0] = 3.0
    assert progress.estimate() == ""
    now[0] = 30.0
    progress.end("a", kept=False)
    assert progress.estimate() == ", about 6 min 0 s left"
    progress.begin("b")
    now[0] = 50.0
    assert progress.estimate() == ", about 5 min 40 s left"
    progress.end("b", kept=True)
    assert progress.estimate() == ", about 5 min 0 s left"
    progress.begin("c")
    progress.end("c", kept=False)
    assert progress.estimate() == ""


def test_time_left_is_shared_among_the_workers(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_progress.time, "perf_counter", lambda: now[0])
    progress = _progress.RunProgress(dict.fromkeys("abcde", 10) | {"e": 60}, dict.fromkeys("abcde", ""), workers=2)
    progress.begin("a")
    progress.begin("b")
    now[0] = 20.0
    progress.end("a", kept=False)
    progress.begin("c")
    now[0] = 30.0
    # Twice as slow as foreseen: b should have ended, c has 10 s left, and d and e take 20 and 120.
    assert progress.estimate() == ", about 2 min 0 s left"
    progress.end("b", kept=False)
    assert progress.estimate() == ", about 2 min 30 s left"


@pytest.mark.parametrize(("columns", "words"), [(40, ""), (60, "figures, about "), (100, "figures, about ")])
def test_a_narrow_terminal_keeps_the_time_left(columns, words, monkeypatch, capsys):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(columns)}.items():
        monkeypatch.setenv(name, value)
    now = [0.0]
    monkeypatch.setattr(_progress.time, "perf_counter", lambda: now[0])
    _terminal.console.cache_clear()
    try:
        with _progress.RunProgress({"4.2a": 10, "4.2b": 200}, {"4.2a": "title", "4.2b": "title"}) as progress:
            progress.begin("4.2a")
            now[0] = 65.0
            progress.end("4.2a", kept=False)
            progress.begin("4.2b")
            progress.bar.refresh()
    finally:
        _terminal.console.cache_clear()
    said = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", capsys.readouterr().err)
    lines = [line.strip() for line in said.splitlines() if line.startswith("4.2b")]
    assert re.fullmatch(rf"4\.2b\s+[━╸╺]*\s*1/2 {words}21 min 40 s left", lines[-1]) and len(lines[-1]) <= columns
