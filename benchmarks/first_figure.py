"""From `import dlnjax` to a picture on disk: how long a newcomer waits, and how much of it is compilation.

Each row is a fresh Python. Cold: nothing was ever compiled; warm: JAX's compilation cache holds what the same program
compiled before, as it does for the command line and wherever JAX_COMPILATION_CACHE_DIR is set.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _timing import Report

FLOW = """
energy = dln.MatrixCompletion.diagonal(10)
x0 = dln.gaussian(jax.random.key(0), 10, 0.03)
sol = dln.gradient_flow(energy, x0, ts=jnp.linspace(0.0, 20.0, 201))
"""
SWEEP = """
energy = dln.MatrixCompletion.diagonal(10)
starts = dln.Ensemble(lambda key: dln.gaussian(key, 10, 0.03), jax.random.key(0), 100)
sol = dln.sweep(energy, starts, ts=jnp.linspace(0.0, 20.0, 201), progress=False)
"""
PROGRAM = """
import json, time
began, busy = time.perf_counter(), time.process_time()
import jax, jax.numpy as jnp, dlnjax as dln
jax.config.update("jax_enable_x64", True)
imported = time.perf_counter()
{compute}
jax.block_until_ready(sol)
computed = time.perf_counter()
sol.plot().figure.savefig({picture!r})
drawn, cores = time.perf_counter(), time.process_time() - busy
{compute}
jax.block_until_ready(sol)
again = time.perf_counter() - drawn
print(json.dumps([imported - began, computed - imported, drawn - computed, drawn - began, cores, again]))
"""
COLUMNS = ["picture", "cache", "import s", "compute s", "draw s", "all s", "all, core s", "again s", "compilation s"]
NOTES = (
    "Medians of fresh processes, `import dlnjax` to the picture on disk; wall clock, and what all cores spent on it."
    " One flow: d = 10, infinite depth, 201 times, its singular values; 100 flows: the same from 100 starts, their"
    " effective rank. Again: the same lines once more in that process; compilation is what they took at first beyond"
    " that, tracing and reading the cache included."
)


def run(compute: str, folder: Path) -> list[float]:
    """Seconds of each part in a fresh Python, with the compilation cache of `folder`."""
    env = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
        "MPLBACKEND": "agg",
        "MPLCONFIGDIR": str(folder / "matplotlib"),
    }
    program = PROGRAM.format(compute=compute, picture=str(folder / "picture.png"))
    out = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-write", action="store_true", help="print the table alone")
    args = parser.parse_args()
    report = Report("first-figure", "The first figure", COLUMNS, NOTES)
    for picture, compute in (("one flow", FLOW), ("100 flows", SWEEP)):
        cold, warm = [], []
        for _ in range(args.runs):
            with tempfile.TemporaryDirectory() as folder:
                cold.append(run(compute, Path(folder)))
                warm.append(run(compute, Path(folder)))
        for cache, rows in (("cold", cold), ("warm", warm)):
            imported, computed, drawn, total, cores, again = np.median(rows, axis=0)
            report.add(picture, cache, imported, computed, drawn, total, cores, again, computed - again)
    report.save(not args.no_write)


if __name__ == "__main__":
    main()
