"""The documentation says what is so: its code runs and prints what it says, and every public name is in it."""

import contextlib
import doctest
import inspect
import io
import math
import re
import shlex
import tomllib
from pathlib import Path

import diffrax
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import pytest

import dlnjax as dln
import dlnjax.plot
from dlnjax._cli import _parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?")
# What the examples stand after, as the first page of the API says.
NAMES = {"diffrax": diffrax, "dln": dln, "jax": jax, "jnp": jnp, "optax": optax, "Path": Path}


def title(page):
    return str(page.relative_to(ROOT))


def blocks(page, *languages):
    return [match[2] for match in BLOCK.finditer(page.read_text(encoding="utf-8")) if match[1] in languages]


def public():
    """Every public name, and what it stands for."""
    places = {"dlnjax": dln, "dlnjax.closed_form": dln.closed_form, "dlnjax.plot": dlnjax.plot}
    own = lambda value, module: callable(value) and getattr(value, "__module__", "").startswith(module.__name__)
    return [
        (f"{place}.{name}", value)
        for place, module in places.items()
        for name, value in vars(module).items()
        if not name.startswith("_") and own(value, module)
    ]


def agree(printed, said):
    """The same words, and numbers that agree but for what another machine may round differently."""
    numbers = [[float(x) for x in NUMBER.findall(text)] for text in (printed, said)]
    words = [NUMBER.sub("#", text).split() for text in (printed, said)]
    close = lambda a, b: math.isclose(a, b, rel_tol=0.02, abs_tol=1e-6)
    return words[0] == words[1] and all(map(close, *numbers))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.mark.long
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=title)
def test_code_runs_and_prints_what_the_page_says(page, elsewhere):
    namespace, printed = {"__name__": "__main__"}, ""
    for language, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(code, title(page), "exec"), namespace)
            printed = out.getvalue()
        elif language == "text":
            assert agree(printed, code), f"it prints\n{printed}\nand the page says\n{code}"


@pytest.mark.long
@pytest.mark.parametrize(("name", "value"), public(), ids=lambda x: x if isinstance(x, str) else "-")
def test_example_in_the_docstring_prints_what_it_says(name, value, elsewhere):
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(value) or "", NAMES | {"np": np}, name, None, None)
    report = io.StringIO()
    doctest.DocTestRunner(verbose=False).run(test, out=report.write)
    assert test.examples and not report.getvalue(), report.getvalue()


@pytest.mark.parametrize(("name", "value"), public(), ids=lambda x: x if isinstance(x, str) else "-")
def test_public_name_has_an_example_and_is_in_the_api(name, value):
    assert "\n**Example:**\n\n    >>> " in (inspect.getdoc(value) or ""), f"{name} has no example"
    documented = [line for page in (ROOT / "docs" / "api").glob("*.md") for line in page.read_text().splitlines()]
    assert documented.count(f"::: {name}") == 1, f"{name} must be once in docs/api"


def test_api_names_nothing_else():
    pages = (ROOT / "docs" / "api").glob("*.md")
    documented = {name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)}
    # Of the claims, the mapping is public, and what it holds is shown beside it. The adapters need other libraries, so
    # that `dlnjax` does not import them.
    beside = {"claims.Claim", "claims.Verdict", "adapters.geomstats.DeepLinearMetric", "adapters.pymanopt.DeepLinear"}
    assert documented == {name for name, _ in public()} | {f"dlnjax.{name}" for name in beside}


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_commands_on_the_page_exist(page):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    text = page.read_text(encoding="utf-8")
    for line in "".join(blocks(page, "sh")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["dlnjax"] and words[1:] != ["--version"]:
            _parser().parse_args(words[1:])
        elif words[:1] == ["make"]:
            assert set(words[1:]) <= set(targets), line
    assert set(",".join(re.findall(r"'\.\[([\w,]+)\]'", text)).split(",")) <= {"", *extras}
    assert set(re.findall(r"`make (\w+)", text)) <= set(targets)


def test_search_reads_from_the_disk_by_a_script_that_is_here():
    # Without a polyfill of that name `offline` takes one from the net.
    names = re.findall(r"polyfills: \[(.*iframe-worker.*)\]", (ROOT / "mkdocs.yml").read_text())
    assert [(ROOT / "docs" / name).is_file() for name in names] == [True]


def test_a_page_that_says_otherwise_is_found():
    assert agree("rank 1.94 of 10\n", "rank 1.95 of 10")
    assert not agree("rank 1.94 of 10", "rank 2.94 of 10")
    assert not agree("rank 1.94 of 10", "bound 1.94 of 10")
    assert not agree("", "rank 1.94")
