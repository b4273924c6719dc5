"""`dlnjax explore`: serves the explorer to the browser on this machine, and to nobody else."""

import argparse
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import dlnjax
from dlnjax._commands._common import Refused

NOTEBOOK = Path(dlnjax.__file__).parent / "explore" / "_notebook.py"
# What the extra `explore` brings.
NEEDED = ("marimo", "anywidget")
# No other machine can reach this address.
HOST = "127.0.0.1"


def explore(args: argparse.Namespace) -> int:
    """Serve the page until it is stopped by Ctrl-C."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise Refused(f'explore needs {" and ".join(missing)}: pip install "dlnjax[explore]".')
    # marimo would ask its registry for a newer version.
    return subprocess.run(command(args), env=os.environ | {"MARIMO_SKIP_UPDATE_CHECK": "1"}).returncode


def command(args: argparse.Namespace) -> list[str]:
    """The command of marimo that serves the page, or the notebook with its code."""
    words = [sys.executable, "-m", "marimo", "edit" if args.edit else "run", str(NOTEBOOK), "--host", HOST]
    words += ["--port", str(args.port)] if args.port else []
    words += ["--headless"] if args.no_browser else []
    return words
