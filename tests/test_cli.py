"""The command line, from inside and as a program."""

import csv
import subprocess
import sys

import pytest
import xarray

import dlnjax
from dlnjax import _cli


def run(*args):
    return subprocess.run([sys.executable, "-m", "dlnjax", *args], capture_output=True, text=True, timeout=300)


def test_version_and_help_say_what_there_is(capsys):
    with pytest.raises(SystemExit) as stop:
        _cli.main(["--version"])
    assert stop.value.code == 0 and dlnjax.__version__ in capsys.readouterr().out
    assert _cli.main([]) == 0
    assert "reproduce" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        _cli.main(["reproduce", "--help"])
    assert "example:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--figure", "9.9"], ["9.9", "4.1a", "4.2d"]),
        (["--seeds", "3"], ["--seeds", "at least 10", "3"]),
    ],
)
def test_wrong_options_are_answered_before_any_work(args, words, tmp_path, capsys):
    assert _cli.main(["reproduce", "--out", str(tmp_path / "out"), *args]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words)


def test_folder_that_cannot_be_written_is_told_before_any_work(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert _cli.main(["reproduce", "--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_rows_of_other_figures_stay_in_the_table(tmp_path):
    from dlnjax.figures import Number

    table = tmp_path / "numbers.csv"
    row = lambda here: [Number("quantity, with a comma", "-", here, 0.1, "measured")]
    _cli._write_numbers(table, "4.2a", row(1.0))
    _cli._write_numbers(table, "4.1a", row(2.0))
    _cli._write_numbers(table, "4.2a", row(3.0))
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    assert [(r[0], r[3]) for r in rows[1:]] == [("4.1a", "2"), ("4.2a", "3")]


@pytest.mark.slow
def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    data = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        out = run("reproduce", "--figure", "4.2a", "--seeds", "12", "--seed", seed, "--out", str(tmp_path / name))
        assert out.returncode == 0, out.stderr
        assert "4.2a" in out.stdout and "drastic gap" in out.stdout
        data.append((tmp_path / name / "4.2a.nc").read_bytes())
        assert {f.name for f in (tmp_path / name).iterdir()} == {"4.2a.nc", "4.2a.png", "4.2a.svg", "numbers.csv"}
    assert data[0] == data[1] != data[2]
    with xarray.open_dataset(tmp_path / "a" / "4.2a.nc", engine="scipy") as file:
        assert file.attrs["seeds"] == 12 and file["effective_rank"].dims == ("seed", "time")
