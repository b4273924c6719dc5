"""The page on geomstats and pymanopt prints what it says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

pytest.importorskip("geomstats")
pytest.importorskip("pymanopt")
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "neighbours.md"


def test_code_runs_and_prints_what_the_page_says():
    namespace, printed, compared = {"__name__": "__main__"}, "", 0
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        if language == "py":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(code, str(PAGE), "exec"), namespace)
            printed = out.getvalue()
        else:
            assert printed.split() == code.split()
            compared += 1
    assert compared == 4
