"""Mistakes on the command line are answered in one line, which says what was expected."""

from pathlib import Path

import pytest
import xarray

from dlnjax import _cli

WRONG = [
    (["frobnicate"], ["frobnicate", "reproduce", "plot", "sweep"]),
    (["reproduc"], ["'reproduc'", "Did you mean reproduce?"]),
    (["sweep", "--detph", "3"], ["--detph 3", "Did you mean --depth?", "dlnjax sweep --help"]),
    (["sweep", "--detph=3"], ["--detph=3", "Did you mean --depth?"]),
    (["sweep", "--energy", "diagnal"], ["'diagnal'", "Did you mean diagonal?"]),
    (["reproduce", "--worker", "2"], ["--worker 2", "Did you mean --workers?"]),
    (["sweep", "--figures"], ["unrecognized arguments: --figures. See"]),
    (["reproduce", "--figure", "9.9"], ["'9.9'", "4.1a", "4.2d", "a group"]),
    (["reproduce", "--figure", "4.2.a"], ["'4.2.a'", "Did you mean 4.2a?"]),
    (["reproduce", "--seeds", "3"], ["--seeds", "at least 10", "'3'"]),
    (["reproduce", "--seeds", "many"], ["--seeds", "whole number", "'many'"]),
    (["reproduce", "--seed", "-1"], ["--seed", "from 0", "'-1'"]),
    (["reproduce", "--out", "file/out"], ["cannot write to file/out", "--out"]),
    (["plot"], ["DATA", "dlnjax plot --help"]),
    (["plot", "nothing/4.2"], ["no data", "nothing", "dlnjax reproduce --out nothing"]),
    (["plot", "."], ["folder without data", "dlnjax reproduce"]),
    (["plot", "nowhere"], ["no data at nowhere", "out/4.2a.nc", "dlnjax sweep --out nowhere"]),
    (["plot", "file"], ["cannot read file", "figure"]),
    (["plot", "other.nc"], ["other.nc", "does not hold the data of a figure", "dlnjax.figure"]),
    (["sweep", "--depth", "0.5"], ["--depth", "at least 1, or inf", "'0.5'"]),
    (["sweep", "--d", "0"], ["--d", "at least 1", "'0'"]),
    (["sweep", "--d", "2.5"], ["--d", "whole number", "'2.5'"]),
    (["sweep", "--std", "0"], ["--std", "above 0", "'0'"]),
    (["sweep", "--t-end", "inf"], ["--t-end", "finite", "'inf'"]),
    (["sweep", "--steady", "nan"], ["--steady", "above 0", "'nan'"]),
    (["sweep", "--max-steps", "0"], ["--max-steps", "at least 1", "'0'"]),
    (["sweep", "--times", "1"], ["--times", "at least 2", "'1'"]),
    (["sweep", "--energy", "mask"], ["--energy", "'mask'", "random-mask"]),
    (["sweep", "--entries", "5"], ["--entries", "--energy random-mask", "diagonal"]),
    (["sweep", "--energy", "random-mask", "--p", "2"], ["--p", "--energy schatten", "random-mask"]),
    (["sweep", "--energy", "random-mask", "--d", "3", "--entries", "10"], ["--entries", "d^2 = 9", "10"]),
    (["sweep", "--out", "file/run"], ["cannot write to file/run", "name another folder"]),
    (["sweep", "--out", "."], ["not empty", "Name a new folder"]),
    (["sweep", "--depth", "2", "--depth", "2"], ["different", "2"]),
    (["sweep", "--energy", "random-mask", "--beta", "2", "--depth", "2", "--depth", "3"], ["takes one --depth"]),
    (["sweep", "--workers", "2"], ["--workers needs --out"]),
    (["sweep", "--scheduler", "tcp://node:8786"], ["--scheduler needs --out"]),
    (["sweep", "--out", "run", "--workers", "2", "--scheduler", "tcp://node:8786"], ["exclude each other"]),
    (["sweep", "--out", "run", "--workers", "0"], ["--workers", "at least 1", "'0'"]),
    (["sweep", "--noise", "2"], ["--noise and --dt go together"]),
    (["sweep", "--noise", "2", "--dt", "0.1", "--steady", "1e-3"], ["--steady", "--noise", "leave one out"]),
    (["sweep", "--noise", "2", "--dt", "0.1", "--rtol", "1e-3"], ["--rtol", "--noise", "leave one out"]),
    (["sweep", "--rtol", "1"], ["--rtol", "above 0 and below 1", "'1'"]),
    (["sweep", "--imbalance", "1", "--depth", "2"], ["--imbalance", "two layers", "--depth"]),
    (["sweep", "--imbalance", "inf"], ["--imbalance", "finite", "'inf'"]),
    (["sweep", "--entry", "0,0=1"], ["--entry belongs to --energy entries"]),
    (["sweep", "--energy", "entries"], ["needs --entry I,J=V"]),
    (["sweep", "--energy", "entries", "--entry", "0=1"], ["--entry", "I,J=V", "'0=1'"]),
    (["sweep", "--energy", "entries", "--d", "2", "--entry", "0,2=1"], ["d - 1 = 1", "0,2"]),
    (["sweep", "--energy", "entries", "--d", "2", "--entry", "0,1=1", "--entry", "0,1=2"], ["once", "0,1 twice"]),
    (["explore", "--port", "0"], ["--port", "from 1", "'0'"]),
]
# For these the folder has no data.
NOTHING = [["plot", "."], ["plot", "nowhere"]]


@pytest.mark.parametrize(("args", "words"), WRONG, ids=lambda x: " ".join(x)[:40])
def test_mistake_is_answered_in_one_line_before_any_work(args, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    xarray.Dataset({"x": 1.0}).to_netcdf("other.nc", engine="scipy")
    Path("other.nc").rename("other.nc.kept" if args in NOTHING else "other.nc")
    assert _cli.main(args) == 2
    out, said = capsys.readouterr()
    assert out == "" and said.startswith("dlnjax: ") and said.count("\n") == 1
    assert all(word in said for word in words), said
