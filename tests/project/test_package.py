"""The package as it is installed: light, typed, and whole without extras."""

import os
import resource
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command, cwd=None, **variables):
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, cwd=cwd, env=os.environ | variables
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_import_computes_nothing(tmp_path):
    # Whatever asked for a device would fail.
    assert run(sys.executable, "-c", "import dlnjax", cwd=ROOT, JAX_PLATFORMS="none") == ""


@pytest.mark.long
def test_import_takes_less_than_one_and_a_half_times_that_of_diffrax(tmp_path):
    # Both read their bytecode, as from the second import on. Where Python may not write it, this package would be
    # compiled each time, and diffrax, whose bytecode pip has written, would not.
    bytecode = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}

    def seconds(module):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(sys.executable, "-c", f"import {module}", cwd=ROOT, **bytecode)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    seconds("dlnjax"), seconds("diffrax")
    # Turn by turn, and the least of each: others may be at work.
    ours, theirs = zip(*((seconds("dlnjax"), seconds("diffrax")) for _ in range(5)), strict=True)
    assert min(ours) < 1.5 * min(theirs)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The Python of an environment that holds the wheel, what it requires, and nothing else."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", "-c", ROOT / "constraints.txt", wheel)
    return python


@pytest.mark.long
def test_wheel_holds_the_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"dlnjax"}
    assert {"dlnjax/py.typed", "dlnjax/plot/dlnjax.mplstyle", "dlnjax/figures/report.html.jinja"} <= set(names)
    assert {"dlnjax/explore/page.js", "dlnjax/explore/page.css"} <= set(names)


@pytest.mark.long
def test_main_job_runs_without_extras(installed, tmp_path):
    packages = run(installed, "-m", "pip", "list", "--format", "freeze")
    assert "dlnjax" in packages
    assert not any(name in packages for name in ("zarr", "cvxpy", "pytest", "beartype", "mkdocs"))
    run(installed.with_name("dlnjax"), "reproduce", "--figure", "4.1a", "--quick", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"4.1a.nc", "4.1a.svg", "report.html", "numbers.csv"}


@pytest.mark.long
def test_program_of_a_user_type_checks_strictly_against_the_wheel(installed, tmp_path):
    program = tmp_path / "consumer.py"
    program.write_text((ROOT / "tests" / "support" / "consumer.py").read_text(encoding="utf-8"), encoding="utf-8")
    pyright = Path(sys.executable).with_name("pyright")
    assert "0 errors" in run(pyright, "--pythonpath", installed, program, cwd=tmp_path)
    program.write_text("# pyright: strict\nimport dlnjax\n\ndlnjax.distance(1)\n", encoding="utf-8")
    with pytest.raises(AssertionError, match='missing for parameters "b", "depth"'):
        run(pyright, "--pythonpath", installed, program, cwd=tmp_path)


@pytest.mark.long
def test_every_public_name_has_a_known_type(installed, tmp_path):
    # pyright asks the python of the path where packages are.
    path = os.pathsep.join((str(installed.parent), os.environ["PATH"]))
    pyright = Path(sys.executable).with_name("pyright")
    said = run(pyright, "--verifytypes", "dlnjax", "--ignoreexternal", cwd=tmp_path, PATH=path)
    assert "Type completeness score: 100%" in said
