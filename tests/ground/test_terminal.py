"""What is said while one waits, and that nothing is said where nobody looks on."""

import io
import re
import time

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

import dlnjax as dln
from dlnjax import _terminal
from dlnjax._compile import compiled
from dlnjax._sweeps import progress as sweeps

ENERGY, STARTS = dln.MatrixCompletion.diagonal(2), jnp.stack([jnp.eye(2) / 2] * 3)


def watch(monkeypatch, terminal, columns=80):
    stream = io.StringIO()
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = Console(file=stream, force_terminal=terminal, highlight=False)
    for place in (_terminal, sweeps):
        monkeypatch.setattr(place, "console", lambda: shown)
    # A command that ran before in this process has silenced the line for good.
    monkeypatch.setattr(_terminal._Silence, "count", 0)
    return stream


def lines(stream):
    """What was said on the one line, one after the other. Each must be overwritten by blanks."""
    *parts, rest = stream.getvalue().split("\r")
    stream.truncate(stream.seek(0))
    assert rest == "" and parts[1::2] == [" " * len(line) for line in parts[::2]]
    return parts[::2]


def test_a_long_wait_is_said_and_taken_back(monkeypatch):
    stream = watch(monkeypatch, True)
    monkeypatch.setattr(_terminal, "DELAY", 0.3)

    @compiled
    def slow(x):
        # This is where the program is made.
        time.sleep(0.4)
        return jax.pure_callback(lambda x: [time.sleep(0.4), x][1], x, x)

    assert slow(jnp.ones(5)).shape == (5,)
    assert lines(stream) == ["dlnjax: compiling, once for these shapes ...", "dlnjax: running ..."]
    slow(jnp.zeros(5))
    assert lines(stream) == ["dlnjax: running ..."]
    with _terminal.waiting_for("searching"):
        slow(jnp.zeros(5))
        slow(jnp.zeros(6))
    assert lines(stream) == [
        f"dlnjax: {what} ..." for what in ("searching", "compiling, once for these shapes", "searching")
    ]


@pytest.mark.parametrize(("terminal", "delay"), [(False, 0.0), (True, 60.0)])
def test_nothing_is_said_in_a_log_or_of_a_short_wait(monkeypatch, terminal, delay):
    stream = watch(monkeypatch, terminal)
    monkeypatch.setattr(_terminal, "DELAY", delay)
    compiled(lambda x: jnp.cos(x) + 3)(jnp.ones(5))
    assert stream.getvalue() == ""


@pytest.mark.parametrize("progress", [True, False])
def test_bar_of_a_sweep_tells_compiling_from_running(monkeypatch, progress):
    stream = watch(monkeypatch, True)
    monkeypatch.setattr(_terminal, "DELAY", 0.0)
    dln.sweep(ENERGY, STARTS, ts=[0.0, 1.0], chunk=1, progress=progress)
    said = stream.getvalue()
    assert "dlnjax:" not in said
    assert progress == ("compiling" in said) == ("seeds" in said)


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_bar_on_a_narrow_terminal_keeps_the_count_and_the_time_left(monkeypatch, columns):
    stream = watch(monkeypatch, True, columns)
    with sweeps.show_progress(100000, True, 0) as (compiling, advance):
        compiling(False)
        advance(12345)
    lines = [re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", line).strip() for line in stream.getvalue().splitlines()]
    last = next(line for line in lines if "12345" in line)
    assert re.fullmatch(r"seeds\s+[━╸╺]*\s*12345/100000 +[-:\d]+ left", last) and len(last) <= columns
    assert 0 <= len(re.findall("[━╸╺]", last)) <= 40


def test_log_of_a_batch_job_has_a_line_now_and_then(monkeypatch):
    stream = watch(monkeypatch, False)
    dln.sweep(ENERGY, STARTS, ts=[0.0, 1.0], chunk=1)
    assert stream.getvalue() == ""
    monkeypatch.setattr(sweeps, "_SECONDS_BETWEEN_LINES", 0.0)
    dln.sweep(ENERGY, STARTS, ts=[0.0, 1.0], chunk=1)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3 and lines[0].startswith("dlnjax: 1 of 3 seeds after 0 s, about")


def test_a_folder_for_programs_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="folder must be one that can be made"):
        dln.cache(tmp_path / "file" / "folder")
