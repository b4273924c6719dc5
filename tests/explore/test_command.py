"""`dlnjax explore` without its extra, and the command of marimo that it runs. These tests run in any environment."""

import subprocess

import pytest

from dlnjax import _cli
from dlnjax._commands import _explore


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(_explore, "find_spec", lambda name: None)
    assert _cli.main(["explore"]) == 2
    assert capsys.readouterr().err == (
        "dlnjax: explore needs marimo and anywidget: pip install '.[explore]' in a copy of the repository.\n"
    )


@pytest.fixture
def served(monkeypatch):
    """What the command would run: the words and the environment of each process."""
    calls = []
    run = lambda command, env: calls.append((command, env)) or subprocess.CompletedProcess(command, 0)
    monkeypatch.setattr(_explore, "find_spec", lambda name: True)
    monkeypatch.setattr(_explore.subprocess, "run", run)
    return calls


@pytest.mark.parametrize(
    ("given", "words"),
    [([], []), (["--port", "2718", "--no-browser"], ["--port", "2718", "--headless"])],
)
def test_page_is_served_to_this_machine_alone(given, words, served):
    assert _cli.main(["explore", *given]) == 0
    [(command, env)] = served
    assert command[1:] == ["-m", "marimo", "run", str(_explore.NOTEBOOK), "--host", "127.0.0.1", *words]
    assert env["MARIMO_SKIP_UPDATE_CHECK"] == "1" and _explore.NOTEBOOK.is_file()


def test_notebook_is_edited_as_a_copy_that_is_never_overwritten(served, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "explorer.py"
    assert _cli.main(["explore", "--edit"]) == 0
    assert copy.read_bytes() == _explore.NOTEBOOK.read_bytes()
    assert capsys.readouterr().err == f"a copy of the notebook is opened: {copy}\n"
    copy.write_text("edited")
    assert _cli.main(["explore", "--edit"]) == 0
    assert copy.read_text() == "edited"
    assert capsys.readouterr().err == f"explorer.py was here before and is opened as it is: {copy}\n"
    for command, _ in served:
        assert command[3:] == ["edit", "explorer.py", "--host", "127.0.0.1"]


def test_folder_that_cannot_be_written_is_refused(served, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_explore, "COPY", tmp_path / "missing" / "explorer.py")
    assert _cli.main(["explore", "--edit"]) == 2
    assert "Go to a folder of your own." in capsys.readouterr().err and not served
