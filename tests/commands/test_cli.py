"""The command line, from inside and as a program."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray
from support import two_figures
from support.two_figures import TWO

import dlnjax
from dlnjax import _cli, figures
from dlnjax._commands import _reproduce, _sweep

SCRIPT = Path(__file__).parents[1] / "support" / "two_figures.py"


@pytest.fixture
def two(monkeypatch):
    """The command line that knows two small figures alone, and makes them in this process."""
    monkeypatch.setattr(_reproduce, "MOST_WORKERS", 1)
    for name in figures.FIGURES.copy():
        monkeypatch.delitem(figures.FIGURES, name)
    for name, figure in TWO.items():
        monkeypatch.setitem(figures.FIGURES, name, figure)


def data_of(path):
    with xarray.open_dataset(path, engine="scipy") as file:
        return file.load()


def rows_of(folder):
    with (folder / "numbers.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_version_and_help_say_what_there_is(capsys):
    with pytest.raises(SystemExit) as stop:
        _cli.main(["--version"])
    assert stop.value.code == 0 and dlnjax.__version__ in capsys.readouterr().out
    assert _cli.main([]) == 0
    said = capsys.readouterr().out
    assert "example: dlnjax reproduce --quick" in said and "eval" in said
    for command in ("reproduce", "plot", "sweep"):
        assert command in said
        with pytest.raises(SystemExit):
            _cli.main([command, "--help"])
        assert f"example:  dlnjax {command}" in capsys.readouterr().out.replace("example: dlnjax", "example:  dlnjax")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        *(("sw", {"sweep"}), ("sweep --dep", {"--depth"}), ("sweep --energy r", {"random-mask"})),
        *(("plot da", {"data.nc"}), ("reproduce --figure 4.2", {"4.2a", "4.2b", "4.2c", "4.2d"})),
    ],
)
def test_bash_completes_commands_options_choices_and_files(typed, offered, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        _cli.main(["--print-completion", "bash"])
    assert stop.value.code == 0
    (tmp_path / "data.nc").touch()
    words = ["dlnjax", *typed.split()]
    ask = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _shtab_dlnjax; echo ${{COMPREPLY[@]}}"
    script = capsys.readouterr().out + ask
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert set(run.stdout.split()) == offered, run.stderr


@pytest.mark.slow
def test_output_that_nobody_reads_any_more_ends_the_command_without_a_word(tmp_path):
    script = f"{sys.executable} -m dlnjax sweep --d 2 --seeds 2 --t-end 1; echo $? >{tmp_path}/status"
    run = subprocess.run(["bash", "-c", f"({script}) | true"], capture_output=True, text=True)
    assert run.stderr == "" and (tmp_path / "status").read_text().split() == ["141"]


def test_numbers_are_written_in_full_and_those_of_other_figures_stay(two, tmp_path, capsys):
    assert _cli.main(["reproduce", "--figure", "1.1b", "--seeds", "12", "--out", str(tmp_path)]) == 0
    assert "1.1b" in capsys.readouterr().out
    first = rows_of(tmp_path)
    assert _cli.main(["reproduce", "--figure", "1.1a", "--seeds", "12", "--out", str(tmp_path)]) == 0
    rows = rows_of(tmp_path)
    assert list(rows[0]) == [
        "figure",
        "quantity",
        "thesis",
        "expected",
        "measured",
        "standard_error",
        "verdict",
        "note",
    ]
    assert [row["figure"] for row in rows] == 3 * ["1.1a"] + 3 * ["1.1b"] and rows[3:] == first
    value = data_of(tmp_path / "1.1a.nc")["value"].values
    assert float(rows[0]["measured"]) == pytest.approx(value.mean(), rel=1e-5)
    assert rows[0]["expected"] == "0" and rows[1]["note"].startswith("Of few draws")
    assert [rows[2][name] for name in ("expected", "measured", "standard_error")] == ["", "nan", ""]
    # Every figure has draws of its own.
    assert not np.isin(value, data_of(tmp_path / "1.1b.nc")["value"]).any()
    page = (tmp_path / "report.html").read_text()
    assert 'id="figure-1.1a"' in page and 'id="figure-1.1b"' in page


def start(*args, log, wait=True):
    env = os.environ | {"TWO_FIGURES_LOG": str(log), "PYTHONPATH": str(Path(dlnjax.__file__).parents[1])}
    env |= {"TWO_FIGURES_WAIT": "1"} if wait else {}
    command = [sys.executable, str(SCRIPT), *args, "--workers", "1"]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def wait_for_the_second(log, process):
    until = time.monotonic() + 60
    while not (log.exists() and log.read_text() == "1.1a\n1.1b\n"):
        assert process.poll() is None and time.monotonic() < until, "the second figure has not begun"
        time.sleep(0.05)


@pytest.mark.long
def test_killed_between_figures_it_keeps_what_is_done_and_goes_on_from_there(two, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    args = ["reproduce", "--out", str(out), "--seeds", "12"]
    with start(*args, log=log) as process:
        wait_for_the_second(log, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert sorted(path.name for path in out.glob("1.1*")) == ["1.1a.nc", "1.1a.png", "1.1a.svg"]
    assert {row["figure"] for row in rows_of(out)} == {"1.1a"}
    assert 'id="figure-1.1a"' in (out / "report.html").read_text()
    kept = (out / "1.1a.nc").read_bytes()
    with start(*args, "--resume", log=log, wait=False) as process:
        said = process.stderr.read()
    assert process.returncode == 0, said
    assert log.read_text() == "1.1a\n1.1b\n1.1b\n"
    assert "taken up; 1 to go" in said and "report.html" in said
    assert (out / "1.1a.nc").read_bytes() == kept
    assert {row["figure"] for row in rows_of(out)} == {"1.1a", "1.1b"}
    assert not list(out.glob(".*"))
    assert _cli.main(["reproduce", "--out", str(tmp_path / "whole"), "--seeds", "12"]) == 0
    assert rows_of(tmp_path / "whole") == rows_of(out)


def test_ctrl_c_says_in_one_line_what_is_kept(tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    with start("reproduce", "--out", str(out), log=log) as process:
        wait_for_the_second(log, process)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert said.splitlines()[-1] == f"dlnjax: stopped; what is finished is in {out}, and --resume goes on from there"
    assert "Traceback" not in said and (out / "1.1a.nc").exists()


def test_shared_among_processes_the_data_are_the_same_and_a_failure_is_told(two, tmp_path, monkeypatch, capsys):
    log = tmp_path / "log"
    monkeypatch.setenv("TWO_FIGURES_LOG", str(log))
    monkeypatch.setattr(_reproduce, "_make_apart", two_figures.make_apart)
    monkeypatch.setitem(_reproduce.SECONDS, "1.1b", 100)
    args = ["reproduce", "--seeds", "12", "--out"]
    assert _cli.main([*args, str(tmp_path / "one")]) == 0
    assert _cli.main([*args, str(tmp_path / "two"), "--workers", "9"]) == 0
    assert sorted(log.read_text().split()) == ["1.1a", "1.1a", "1.1b", "1.1b"]
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "two")
    for name in TWO:
        one, other = (data_of(tmp_path / folder / f"{name}.nc") for folder in ("one", "two"))
        assert one.equals(other)
        assert (tmp_path / "two" / f"{name}.svg").exists()
    said = capsys.readouterr().err
    assert "1 to go" in said and "0 to go" in said
    full = "cannot write figure 1.1b: [Errno 28] No space left"
    for failure, words in (("full", full), ("killed", "cannot make figure 1.1b: process")):
        monkeypatch.setenv("TWO_FIGURES_FAIL", failure)
        assert _cli.main([*args, str(tmp_path / failure), "--workers", "2"]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert words in said and "--resume" in said and ("--workers 1" in said) == (failure == "killed")
        assert not (tmp_path / failure / "1.1b.nc").exists()


def test_what_cannot_be_written_to_its_end_leaves_what_was_there(two, tmp_path, monkeypatch, capsys):
    args = ["reproduce", "--figure", "1.1a", "--out", str(tmp_path)]
    assert _cli.main([*args, "--seeds", "12"]) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(self, path, **_):
        Path(path).write_bytes(b"CDF")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xarray.Dataset, "to_netcdf", full)
    capsys.readouterr()
    assert _cli.main([*args, "--seeds", "13"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("dlnjax: cannot write figure 1.1a: ") and "No space left" in said and "--resume" in said
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_resume_takes_up_the_same_run_alone(two, tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("TWO_FIGURES_LOG", str(log))
    out = tmp_path / "out"

    def computed(*options):
        log.write_text("")
        assert _cli.main(["reproduce", "--figure", "1.1a", "--out", str(out), *options]) == 0
        return log.read_text() != ""

    usual = ["--seeds", "12"]
    assert computed(*usual)
    assert not computed(*usual, "--resume")
    assert computed(*usual)
    assert computed(*usual, "--seed", "1", "--resume")
    assert computed("--seeds", "13", "--resume")
    assert computed("--seeds", "13", "--quick", "--resume")
    assert not computed("--seeds", "13", "--quick", "--resume")
    whole = (out / "1.1a.nc").read_bytes()
    (out / "1.1a.nc").write_bytes(whole[: len(whole) // 2])
    assert computed("--seeds", "13", "--quick", "--resume")
    monkeypatch.setattr("dlnjax.figures._run.FORMAT", "dlnjax.figure/0")
    assert computed("--seeds", "13", "--quick", "--resume")


def test_quick_takes_a_tenth_of_the_starts_or_what_the_figure_says_and_never_more_than_all(two, tmp_path, monkeypatch):
    monkeypatch.setitem(figures.FIGURES, "1.1a", TWO["1.1a"]._replace(seeds=200))
    monkeypatch.setitem(figures.FIGURES, "1.1b", TWO["1.1b"]._replace(look=6))
    assert _cli.main(["reproduce", "--quick", "--out", str(tmp_path)]) == 0
    assert [data_of(tmp_path / f"{name}.nc").sizes["seed"] for name in TWO] == [20, 6]
    assert TWO["1.1a"]._replace(seeds=7).size(quick=True) == TWO["1.1a"]._replace(seeds=7, look=9).size(quick=True) == 7
    assert "dlnjax reproduce --figure 1.1a --quick\n" in (tmp_path / "report.html").read_text()
    assert _cli.main(["reproduce", "--quick", "--seeds", "13", "--figure", "1.1a", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "dlnjax reproduce --figure 1.1a --quick --seeds 13\n" in page and "--figure 1.1b --quick\n" in page


def test_plot_draws_the_same_picture_again(two, tmp_path, monkeypatch, capsys):
    assert _cli.main(["reproduce", "--seeds", "12", "--out", str(tmp_path)]) == 0
    pictures = {path: path.read_bytes() for path in tmp_path.glob("1.1*") if path.suffix != ".nc"}
    assert len(pictures) == 4
    monkeypatch.setenv("TWO_FIGURES_LOG", str(tmp_path / "log"))
    for targets, drawn in (("1.1", "ab"), ("1.1a", "a"), ("1.1b.nc 1.1a", "ba"), ("", "ab"), ("1.1 1.1a", "ab")):
        for path in pictures:
            path.unlink(missing_ok=True)
        capsys.readouterr()
        assert _cli.main(["plot", *(str(tmp_path / target) for target in targets.split() or [""])]) == 0
        expected = [tmp_path / f"1.1{letter}.svg" for letter in drawn]
        assert capsys.readouterr().out.split() == list(map(str, expected))
        assert {path: path.read_bytes() for path in tmp_path.glob("1.1*") if path.suffix != ".nc"} == {
            path: picture for path, picture in pictures.items() if path.with_suffix(".svg") in expected
        }
    assert not (tmp_path / "log").exists()
    assert _cli.main(["plot", str(tmp_path / "1.2")]) == 2
    assert "there are: 1.1a, 1.1b" in capsys.readouterr().err


def test_data_of_another_version_are_told_and_left_out(two, tmp_path, monkeypatch, capsys):
    assert _cli.main(["reproduce", "--seeds", "12", "--out", str(tmp_path)]) == 0
    broken = TWO["1.1b"]._replace(numbers=lambda data: [data["another name"]])
    monkeypatch.setitem(figures.FIGURES, "1.1b", broken)
    assert _cli.main(["plot", str(tmp_path / "1.1b")]) == 2
    assert "dlnjax reproduce --figure 1.1b" in capsys.readouterr().err
    assert _cli.main(["reproduce", "--figure", "1.1a", "--seeds", "12", "--out", str(tmp_path)]) == 0
    assert "left out of the report" in capsys.readouterr().err
    assert 'id="figure-1.1b"' not in (tmp_path / "report.html").read_text()


SWEEP = ["sweep", "--d", "3", "--seeds", "6", "--depth", "2", "--seed", "4", "--t-end", "1e3"]


@pytest.mark.slow
def test_sweep_prints_what_it_wrote_and_takes_it_up_again(tmp_path, capsys):
    run = tmp_path / "run"
    args = [*SWEEP, "--energy", "schatten", "--p", "3", "--beta", "0.5", "--steady", "1e-8", "--times", "4"]
    assert _cli.main([*args, "--out", str(run)]) == 0
    said = capsys.readouterr().out
    sol = dlnjax.load(run)
    assert str(sol) in said and str(run) in said
    np.testing.assert_allclose(sol.ts, [0, 0.1, 10, 1000], rtol=1e-12)
    # The isotropic matrix with ((d - 1) (1 - 1/N) / (2 beta))^(1/p) = 1.
    np.testing.assert_allclose(sol.sigma[:, -1], 1, rtol=1e-6)
    assert "steady 6" in said and sol.x.shape == (6, 4, 3, 3)
    assert _cli.main(["plot", str(run)]) == 0
    assert capsys.readouterr().out.split() == [str(run / "sweep.png")]
    assert (run / "sweep.svg").read_text().count("depth 2") == 1
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert _cli.main([*args, "--out", str(run)]) == 0
    assert capsys.readouterr().out == said
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert _cli.main([*args, "--out", str(run), "--seed", "5"]) == 2
    assert "another call" in capsys.readouterr().err


@pytest.mark.slow
def test_sweep_over_depths_is_a_grid_with_a_summary_of_each_and_a_picture(tmp_path, capsys):
    run = tmp_path / "run"
    args = [*SWEEP, "--depth", "3", "--energy", "schatten", "--p", "3", "--beta", "0.5", "--times", "4"]
    assert _cli.main([*args, "--out", str(run)]) == 0
    said = capsys.readouterr().out
    with xarray.open_zarr(run / "data.zarr", consolidated=False) as data:
        assert data["depth"].values.tolist() == [2, 3]
        # The isotropic matrix with ((d - 1) (1 - 1/N) / (2 beta))^(1/p), at each depth its own.
        right = np.array([1, 4 / 3])[:, None, None] ** (1 / 3) * np.ones(3)
        np.testing.assert_allclose(data["sigma"][:, :, -1] / right, 1, rtol=1e-6)
    assert "depth 2: FlowSolution: 6 seeds" in said and "depth 3: FlowSolution: 6 seeds" in said
    assert _cli.main(["plot", str(run)]) == 0
    assert (run / "sweep.png").stat().st_size > 10_000


@pytest.mark.long
def test_sweep_of_two_workers_writes_what_one_process_does(tmp_path, capsys):
    for name, more in (("one", []), ("two", ["--workers", "2"])):
        assert _cli.main([*SWEEP, "--std", "0.3", "--out", str(tmp_path / name), *more]) == 0
    assert str(dlnjax.load(tmp_path / "one")) == str(dlnjax.load(tmp_path / "two"))
    np.testing.assert_array_equal(dlnjax.load(tmp_path / "one").x, dlnjax.load(tmp_path / "two").x)


def test_sweep_draws_a_mask_and_labels_for_each_seed():
    args = _cli._parser().parse_args([*SWEEP, "--energy", "random-mask", "--entries", "4"])
    energy = _sweep._energy(args, jax.random.key(4))
    assert energy.labels.shape == energy.mask.shape == (6, 3, 3)
    assert np.all(energy.mask.sum((1, 2)) == 4) and len({mask.tobytes() for mask in np.asarray(energy.mask)}) > 1
    assert np.all(abs(energy.labels) <= 2) and len(np.unique(energy.labels)) == energy.labels.size


@pytest.mark.slow
def test_same_seed_gives_the_same_data_and_another_seed_others(tmp_path, capsys):
    data = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        out = tmp_path / name
        assert _cli.main(["reproduce", "--figure", "4.2a", "--seeds", "12", "--seed", seed, "--out", str(out)]) == 0
        said = capsys.readouterr().out
        assert "4.2a" in said and "drastic gap" in said
        data.append(data_of(out / "4.2a.nc"))
        assert {f.name for f in out.iterdir()} == {"4.2a.nc", "4.2a.png", "4.2a.svg", "numbers.csv", "report.html"}
    assert data[0].equals(data[1]) and not data[0].equals(data[2])
    assert data[0].attrs["seeds"] == 12 and data[0]["effective_rank"].dims == ("seed", "time")
