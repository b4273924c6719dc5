"""What a first call costs: seconds of the processor in a fresh process, against a plain diffrax program.

Nearly all of a first call is tracing and compilation, so the seconds of all cores are counted, from the end of the
imports to the result. Each call has a process of its own; they take turns. "cold" compiles everything; "warm" finds its
programs in JAX's persistent cache.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from _timing import add_device, Report, use_device

PRELUDE = """
import time
import diffrax, jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
import dlnjax as dln
d = {d}
energy = dln.MatrixCompletion.diagonal(d)
x0 = dln.gaussian(jax.random.key(0), d, 0.1)
a, b = jnp.eye(3) + x0[:3, :3], 2 * jnp.eye(3) + x0[3:6, 3:6]
ts = jnp.linspace(0.0, 10.0, 101)
jax.block_until_ready((x0, a, b, ts))
began, wall = time.process_time(), time.perf_counter()
{call}
jax.block_until_ready(out)
print(time.process_time() - began, time.perf_counter() - wall)
"""

# (4.17)-(4.19) at infinite depth as a reader of the thesis would write it, in one call of diffrax.
PLAIN = """
def velocity(t, y, args):
    u, s, v = y
    g = u.T @ energy.gradient((u * s) @ v.T) @ v
    s2, i = s * s, jnp.eye(d, dtype=bool)
    near = i | (jnp.abs(s[:, None] - s) < 1e-12)
    gap = jnp.where(near, 1.0, s2 - s2[:, None])
    rate = jnp.where(near, s2, gap / jnp.where(near, 1.0, 2 * (jnp.log(s) - jnp.log(s)[:, None])))
    left = jnp.where(i, 0.0, -rate * (g * s + s[:, None] * g.T) / gap)
    right = jnp.where(i, 0.0, -rate * (s[:, None] * g + g.T * s) / gap)
    return u @ left, -s2 * jnp.diagonal(g), v @ right
u, s, vt = jnp.linalg.svd(x0)
def solve(y0):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(velocity), diffrax.Dopri5(), 0.0, 10.0, None, y0, saveat=diffrax.SaveAt(ts=ts),
        stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-8), max_steps=100000, throw=False).ys
out = jax.jit(solve)((u, s, vt.T))
"""

CALLS = {
    "plain diffrax": PLAIN,
    "gradient_flow": "out = dln.gradient_flow(energy, x0, ts=ts)",
    "Dopri5 alone": "out = dln.gradient_flow(energy, x0, ts=ts, solver=diffrax.Dopri5())",
    "matrix": 'out = dln.gradient_flow(energy, x0, ts=ts, coordinates="matrix")',
    "sweep of 100": "out = dln.sweep(energy, dln.Ensemble(lambda k: dln.gaussian(k, d, 0.1), jax.random.key(0), 100), "
    "ts=ts, progress=False)",
    "jax.grad": "out = jax.grad(lambda x: dln.gradient_flow(energy, x, ts=ts).energy[-1])(x0)",
    "distance, d = 3": "out = dln.distance(a, b, jnp.inf)",
    "exponential, d = 3": "out = dln.exponential(a, b, jnp.inf)",
}
# The aims, as multiples of what plain diffrax takes in the same run.
AIMS = {"gradient_flow": 1.0, "Dopri5 alone": 0.8, "sweep of 100": 2.0, "jax.grad": 3.0, "distance, d = 3": 2.0}
AIMS["exponential, d = 3"] = 0.8


def first_call(call: str, d: int, cache: str) -> tuple[float, float]:
    """(seconds of the processor, seconds on the wall) in a new process that has its programs in the folder `cache`."""
    code = PRELUDE.format(d=d, call=call)
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    cpu, wall = out.stdout.split()[-2:]
    return float(cpu), float(wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_device(parser)
    parser.add_argument("--d", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(CALLS), default=list(CALLS))
    options = parser.parse_args()
    use_device(options.device)
    cold: dict[str, list[tuple[float, float]]] = {name: [] for name in options.only}
    warm: dict[str, list[tuple[float, float]]] = {name: [] for name in options.only}
    for _ in range(options.rounds):
        for name in options.only:
            with tempfile.TemporaryDirectory() as cache:
                cold[name].append(first_call(CALLS[name], options.d, str(Path(cache))))
                warm[name].append(first_call(CALLS[name], options.d, str(Path(cache))))
    columns = ["call", "cold, CPU s", "of plain", "aim", "cold, wall s", "warm, CPU s", "warm, wall s"]
    report = Report("first-call", "First calls", columns, f"d = {options.d}, medians of {options.rounds}.")
    plain = np.median(cold.get("plain diffrax", [(np.nan, np.nan)]), axis=0)[0]
    for name in options.only:
        (cpu, wall), (warm_cpu, warm_wall) = np.median(cold[name], axis=0), np.median(warm[name], axis=0)
        aim = f"{AIMS[name]:g}" if name in AIMS else ""
        report.add(name, cpu, cpu / plain, aim, wall, warm_cpu, warm_wall)
    report.save()


if __name__ == "__main__":
    main()
