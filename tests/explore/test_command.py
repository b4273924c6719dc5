"""`dlnjax explore` without its extra, and the command of marimo that it runs. These tests run in any environment."""

import subprocess

import pytest

from dlnjax import _cli
from dlnjax._commands import _explore


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(_explore, "find_spec", lambda name: None)
    assert _cli.main(["explore"]) == 2
    assert capsys.readouterr().err == ('dlnjax: explore needs marimo and anywidget: pip install "dlnjax[explore]".\n')


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], ["run"]),
        (["--edit"], ["edit"]),
        (["--port", "2718", "--no-browser"], ["run", "--port", "2718", "--headless"]),
    ],
)
def test_page_is_served_to_this_machine_alone(given, words, monkeypatch):
    calls = []
    monkeypatch.setattr(_explore, "find_spec", lambda name: True)
    run = lambda command, env: calls.append((command, env)) or subprocess.CompletedProcess(command, 0)
    monkeypatch.setattr(_explore.subprocess, "run", run)
    assert _cli.main(["explore", *given]) == 0
    [(command, env)] = calls
    assert command[1:4] == ["-m", "marimo", words[0]] and command[5:7] == ["--host", "127.0.0.1"]
    assert command[7:] == words[1:] and env["MARIMO_SKIP_UPDATE_CHECK"] == "1"
    assert _explore.NOTEBOOK.is_file()
