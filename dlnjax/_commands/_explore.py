"""`dlnjax explore`: serves the explorer to the browser on this machine, and to nobody else."""

import argparse
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import dlnjax
from dlnjax._commands._common import Refused
from dlnjax._terminal import console

NOTEBOOK = Path(dlnjax.__file__).parent / "explore" / "_notebook.py"
# The name of the copy that `--edit` opens in the current folder.
COPY = Path("explorer.py")
# What the extra `explore` brings.
NEEDED = ("marimo", "anywidget")
# No other machine can reach this address.
HOST = "127.0.0.1"


def explore(args: argparse.Namespace) -> int:
    """Serve the page until it is stopped by Ctrl-C."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise Refused(f"explore needs {' and '.join(missing)}: pip install '.[explore]' in a copy of the repository.")
    notebook = NOTEBOOK
    if args.edit:
        notebook, how = copied()
        console().print(f"{how}: {notebook.resolve()}", markup=False, soft_wrap=True)
    # marimo would ask its registry for a newer version.
    return subprocess.run(command(args, notebook), env=os.environ | {"MARIMO_SKIP_UPDATE_CHECK": "1"}).returncode


def copied() -> tuple[Path, str]:
    """The notebook in the current folder, and how it is opened: as a new copy, or as the file that was there before.

    marimo saves what is edited, and this must not reach the library.
    """
    try:
        with COPY.open("xb") as copy:
            copy.write(NOTEBOOK.read_bytes())
    except FileExistsError:
        return COPY, f"{COPY} was here before and is opened as it is"
    except OSError as error:
        raise Refused(f"cannot write {COPY} to {Path.cwd()}: {error.strerror}. Go to a folder of your own.") from error
    return COPY, "a copy of the notebook is opened"


def command(args: argparse.Namespace, notebook: Path) -> list[str]:
    """The command of marimo that serves the page, or the notebook with its code."""
    words = [sys.executable, "-m", "marimo", "edit" if args.edit else "run", str(notebook), "--host", HOST]
    words += ["--port", str(args.port)] if args.port else []
    words += ["--headless"] if args.no_browser else []
    return words
