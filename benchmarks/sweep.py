"""Sweeps against what one would use instead: trajectories, limits, small starts; and how near the machine they come.

    python benchmarks/sweep.py [--task 1 2 3 roofline] [--d 5 10 25 50] [--seeds 200] [--device gpu] [--quick]

E = sum (X_ii - 1)^2 at infinite depth, rtol 1e-6, float64; atol 1e-8, and for `dlnjax.sweep` its default. The error is
that of the effective rank, over seeds and times, against Dopri5 in X at rtol 1e-10. Slow contenders run on fewer seeds,
and their time is scaled.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _scipy import processes, solve_many
from _timing import add_device, Contender, cores, interleave, Report, Score, Timing, use_device

import dlnjax as dln
from dlnjax._flows.frame import FrameCoordinates
from dlnjax._protocol import at_start
from dlnjax._sweeps.plan import as_devices, chunk_size, lane_count, per_seed, worker_count

RTOL, ATOL = 1e-6, 1e-8
MAX_STEPS = 200_000
SCIPY = ("RK45", "DOP853", "LSODA")


def sigma_only(point: dln.SVD):
    return point.sigma


def starts(d: int, n: int, scale: float):
    """`n` starts with entries from N(0, scale^2)."""
    ensemble = dln.Ensemble(partial(dln.gaussian, shape=d, scale=scale), jax.random.key(0), n)
    return ensemble.take(jnp.arange(n))


def gradient_norm(energy, x):
    return jnp.linalg.norm(jax.vmap(energy.gradient)(x), axis=(1, 2))


class Flows(eqx.Module):
    """What a contender returns: singular values `n ts d`, |dE| at the end, right-hand sides, and who got there."""

    sigma: jax.Array | np.ndarray
    gradient: jax.Array | np.ndarray
    evaluations: jax.Array | np.ndarray
    good: jax.Array | np.ndarray


def ours(energy, x0, ts, steady=None, observe=sigma_only, **options) -> Flows:
    """`dlnjax.sweep`, which saves the singular values alone, or every state with `observe=None`."""
    stop = None if steady is None else dln.Steady(steady)
    sol = dln.sweep(energy, x0, ts=ts, stop=stop, observe=observe, progress=False, **options)
    good = np.asarray(sol.result == ("successful" if steady is None else "steady"))
    return Flows(sol.sigma, gradient_norm(energy, sol.final.matrix), sol.stats["evaluations"], good)


def matrix_velocity(energy, x):
    """-A_X(dE) at infinite depth, (2.20) in the limit: a decomposition at every right-hand side."""
    u, s, vt = jnp.linalg.svd(x)
    log, same = jnp.log(s**2), s[:, None] == s
    lam = jnp.where(same, s**2, (s[:, None] ** 2 - s**2) / jnp.where(same, 1.0, log[:, None] - log))
    return -u @ (lam * (u.T @ energy.gradient(x) @ vt.T)) @ vt


def in_frame_of(energy) -> FrameCoordinates:
    """The flow at infinite depth in the frame, with the tolerances of all contenders."""
    rtol, atol, gap = (jnp.array(x) for x in (RTOL, ATOL, RTOL / 10))
    kernel = dln.Balanced(jnp.inf)
    return FrameCoordinates(energy, kernel, rtol=rtol, atol=atol, rest=None, gap=gap, column_atol=atol)


@eqx.filter_jit
def plain_diffrax(energy, x0, ts, steady, in_frame: bool) -> Flows:
    """diffrax's Dopri5 under one vmap, in SVD coordinates without projection, or in X."""
    coordinates = in_frame_of(energy)
    matrix = (lambda y: y.matrix) if in_frame else (lambda y: y)
    norm = lambda y: jnp.linalg.norm(energy.gradient(matrix(y)))

    def velocity(t, y, args):
        return coordinates.velocity(y)[0] if in_frame else matrix_velocity(energy, y)

    def sigma(t, y, args):
        return -jnp.sort(-jnp.abs(y.sigma)) if in_frame else jnp.linalg.svd(y, compute_uv=False)

    def flow(x0):
        times = diffrax.SubSaveAt(ts=ts, fn=sigma) if steady is None else diffrax.SubSaveAt(t0=True, t1=True, fn=sigma)
        event = None if steady is None else diffrax.Event(lambda t, y, args, **_: norm(y) <= steady)
        sol = diffrax.diffeqsolve(
            diffrax.ODETerm(velocity),
            diffrax.Dopri5(),
            ts[0],
            ts[-1],
            None,
            dln.svd(x0) if in_frame else x0,
            saveat=diffrax.SaveAt(subs=[times, diffrax.SubSaveAt(t1=True, fn=lambda t, y, args: norm(y))]),
            stepsize_controller=diffrax.PIDController(rtol=RTOL, atol=ATOL),
            event=event,
            max_steps=MAX_STEPS,
            throw=False,
        )
        end = diffrax.RESULTS.successful if steady is None else diffrax.RESULTS.event_occurred
        return Flows(sol.ys[0], sol.ys[1][-1], 6 * sol.stats["num_steps"] + 2, sol.result == end)

    return jax.vmap(flow)(x0)


def with_scipy(pool, x0, ts, steady, method: str, limit: float) -> Flows:
    return Flows(*solve_many(pool, np.asarray(x0), np.asarray(ts), method, RTOL, ATOL, steady, limit))


def effective_rank(sigma):
    return np.asarray(dln.effective_rank(jnp.asarray(sigma)))


def score(reference, out: Flows) -> Score:
    """The error against the reference, on the seeds that it has and that were not cut, and |dE| at the end."""
    n = min(len(reference), len(out.sigma))
    whole = np.all(np.isfinite(out.sigma[:n]), axis=(1, 2))
    error = np.abs(effective_rank(out.sigma[:n][whole]) - reference[:n][whole]) if whole.any() else np.array(np.nan)
    gradient, missed = np.asarray(out.gradient), int(np.sum(~np.asarray(out.good)))
    remark = f"{np.median(gradient):.1e}, {gradient.max():.1e}" + (f", {missed} not there" if missed else "")
    return Score((error.mean(), error.max()), float(np.mean(out.evaluations)), remark)


def slow_seeds(args, d: int) -> int:
    """Fewer where d is large, and at least one for each core."""
    return min(args.seeds, max(4, cores(), int(args.slow_seeds * min(1.0, (15 / d) ** 2))))


def compare(args, report: Report, pool, ts, steady, tight) -> None:
    """All contenders at each d: dlnjax on `args.seeds`, the others on `slow_seeds`."""
    for d in args.d:
        energy, x0 = dln.MatrixCompletion.diagonal(d), starts(d, args.seeds, d**-0.5)
        few = x0[: slow_seeds(args, d)]
        many = x0 if steady is None else few
        check = {"rtol": 1e-10, "atol": 1e-12, "coordinates": "matrix", "solver": diffrax.Dopri5(), "max_steps": 10**6}
        exact = ours(energy, x0[: args.reference_seeds], ts, tight, **check)
        if not np.all(exact.good):
            print(f"d = {d}: {np.sum(~exact.good)} references are not there")
        judge = partial(score, effective_rank(exact.sigma))
        contenders = {
            "dlnjax.sweep": Contender(partial(ours, energy, x0, ts, steady), judge, len(x0)),
            "diffrax, SVD coordinates": Contender(
                partial(plain_diffrax, energy, many, ts, steady, True), judge, len(many)
            ),
            "diffrax, X": Contender(partial(plain_diffrax, energy, few, ts, steady, False), judge, len(few)),
        }
        if steady is None:
            run = partial(ours, energy, x0, ts, observe=None)
            contenders["dlnjax.sweep, every state"] = Contender(run, judge, len(x0))
        for method in args.scipy:
            run = partial(with_scipy, pool, few, ts, steady, method, args.limit)
            contenders[f"SciPy {method}, SVD coordinates"] = Contender(run, judge, len(few))
        timings = interleave(contenders, args.runs, args.patience)
        base = timings["dlnjax.sweep"]
        for name, timing in timings.items():
            report.add(f"{d}", name, *speed_columns(timing, base), *timing.score.error, timing.score.extra)
        report.save(not args.quick, final=d == args.d[-1])


SPEED = ["seeds run", "runs", "compile s", "s", "min-max", "ms per seed", "ratio", "rhs per seed"]


def speed_columns(timing: Timing, base: Timing):
    """The columns of SPEED; `ratio` is the time per seed over that of `base`."""
    each = timing.median / timing.seeds
    ratio = each / (base.median / base.seeds)
    counts = f"{timing.seeds}", f"{len(timing.runs)}", timing.compile, timing.median, timing.spread
    return *counts, 1e3 * each, ratio, f"{timing.score.evaluations:.0f}"


def trajectories(args, pool) -> None:
    """Task 1: singular values at 101 times up to 100."""
    title = "Trajectories: N(0, 1/d) starts, 101 times from 0 to 100"
    report = Report("sweep-trajectories", title, ["d", "contender", *SPEED, *ERRORS], NOTES)
    compare(args, report, pool, jnp.linspace(0.0, 100.0, 101), None, None)


def limits(args, pool) -> None:
    """Task 2: to |dE| = 1e-6."""
    title = "Limits: N(0, 1/d) starts, to |dE| <= 1e-6 or t = 1000"
    report = Report("sweep-limits", title, ["d", "contender", *SPEED, *ERRORS], NOTES)
    compare(args, report, pool, jnp.array([0.0, 1000.0]), 1e-6, 1e-8)


ERRORS = ["error mean", "error max", "norm of dE at the end: median, max"]
NOTES = (
    "The contenders took turns; s is the median of the runs, each for the seeds run, and the ratio is that of the times"
    " per seed, to dlnjax.sweep. The error is that of the effective rank against Dopri5 in X at rtol 1e-10, on the"
    " first seeds. Each contender has rtol 1e-6 in the norm that is its own, and atol"
    " 1e-8, but for dlnjax.sweep, which has its default. SciPy runs one process for each core. The contenders save the"
    " singular values, but for the sweep that saves every state, as a sweep does that is told nothing."
)


def small_starts(args, pool) -> None:
    """Task 3: from 1e-3 to |dE| = 1e-8, the default solver against Dopri5 alone."""
    d = 10 if args.quick else 25
    energy, ts = dln.MatrixCompletion.diagonal(d), jnp.array([0.0, 1000.0])
    title = f"Small starts: N(0, 1e-6) starts, d = {d}, to |dE| <= 1e-8 or t = 1000"
    notes = f"s is the median of the runs, each for the seeds run. Both have a limit of {MAX_STEPS} steps."
    report = Report("sweep-small-starts", title, ["contender", *SPEED, ERRORS[-1]], notes)
    judge = lambda out: score(effective_rank(out.sigma), out)
    contenders = {}
    for name, solver, n in (("default", None, args.seeds), ("Dopri5", diffrax.Dopri5(), min(8, args.seeds))):
        run = partial(ours, energy, starts(d, n, 1e-3), ts, 1e-8, solver=solver, max_steps=MAX_STEPS)
        contenders[f"dlnjax.sweep, {name}"] = Contender(run, judge, n)
    timings = interleave(contenders, args.runs, args.patience)
    for name, timing in timings.items():
        report.add(name, *speed_columns(timing, timings["dlnjax.sweep, default"]), timing.score.extra)
    report.save(not args.quick)


one_core = partial(eqx.filter_jit, compiler_options={"xla_cpu_multi_thread_eigen": False})


@one_core
def product_loop(a, b, rounds):
    return jax.lax.fori_loop(0, rounds, lambda _, b: a @ b, b)


@one_core
def velocity_loop(energy, y, rounds):
    """Right-hand sides alone, each at the point to which the last one moved by next to nothing."""
    velocity = jax.vmap(in_frame_of(energy).velocity)
    move = lambda y: jax.tree.map(lambda a, b: a + 1e-12 * b, y, velocity(y)[0])
    return jax.lax.fori_loop(0, rounds, lambda _, y: move(y), y)


def on_threads(pool, workers: int, run):
    return [f.result() for f in [pool.submit(lambda: jax.block_until_ready(run())) for _ in range(workers)]]


def roofline(args, _) -> None:
    """Evaluations per second of task 1, as a share of the products of d x d matrices that the machine can do.

    A right-hand side of this energy needs three: U^T dE V, and the two that turn U and V.
    """
    title = "Share of the machine: the three products of each right-hand side against such products alone"
    notes = (
        "One right-hand side counts as 3 products of d x d matrices, 2 d^3 flops each. The products alone are one"
        " batched product after another, on as many lanes and threads as the sweep has."
    )
    columns = ["d", "what", "lanes", "threads", "s", "min-max", "rhs per s", "GF/s", "share"]
    report = Report("sweep-roofline", title, columns, notes)
    for d in args.d:
        # A sweep runs with this energy too: it computes X at the entries of the mask alone.
        energy, x0 = at_start(dln.MatrixCompletion.diagonal(d)), starts(d, args.seeds, d**-0.5)
        ts, devices = jnp.linspace(0.0, 100.0, 101), as_devices(None)
        workers = worker_count(devices, len(x0))
        chunk = chunk_size(len(x0), d, workers, devices, per_seed(len(ts), d, True))
        lanes = lane_count(devices[0], chunk, d, len(x0))
        rounds = int(max(10, (1e7 if args.quick else 1e9) / (6 * d**3 * lanes)))
        y = jax.vmap(dln.svd)(jnp.resize(x0, (lanes, d, d)))
        with ThreadPoolExecutor(workers) as pool:
            threads = partial(on_threads, pool, workers)
            timings = interleave(
                {
                    "sweep, task 1": Contender(
                        partial(ours, energy, x0, ts),
                        lambda out: Score(evaluations=float(np.sum(out.evaluations))),
                    ),
                    "right-hand side alone": Contender(
                        partial(threads, partial(velocity_loop, energy, y, jnp.array(rounds))),
                        lambda _, n=rounds * lanes * workers: Score(evaluations=n),
                    ),
                    "products alone": Contender(
                        partial(threads, partial(product_loop, y.u, y.v, jnp.array(3 * rounds))),
                        lambda _, n=rounds * lanes * workers: Score(evaluations=n),
                    ),
                },
                args.runs,
                args.patience,
            )
        rates = {name: timing.score.evaluations / timing.median for name, timing in timings.items()}
        for name, timing in timings.items():
            speed = f"{rates[name]:.3g}", 6e-9 * d**3 * rates[name], f"{rates[name] / rates['products alone']:.1%}"
            report.add(f"{d}", name, f"{lanes}", f"{workers}", timing.median, timing.spread, *speed)
    report.save(not args.quick)


TASKS = {"1": trajectories, "2": limits, "3": small_starts, "roofline": roofline}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, nargs="+", default=list(TASKS))
    parser.add_argument("--d", type=int, nargs="+", default=[5, 10, 25, 50])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--slow-seeds", type=int, default=40, help="for all but dlnjax; fewer at d > 15")
    parser.add_argument("--reference-seeds", type=int, default=20)
    parser.add_argument("--scipy", choices=[*SCIPY, "BDF", "Radau"], nargs="*", default=SCIPY)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds after which SciPy's flow is cut")
    parser.add_argument("--patience", type=float, default=120.0, help="seconds after which a contender is not repeated")
    parser.add_argument("--quick", action="store_true", help="small sizes, and no file is written")
    add_device(parser)
    args = parser.parse_args()
    if args.quick:
        args.d, args.seeds, args.slow_seeds, args.reference_seeds, args.runs = (
            [d for d in args.d if d <= 10],
            16,
            4,
            4,
            2,
        )
    use_device(args.device)
    with processes(cores()) as pool:
        for task in args.task:
            TASKS[task](args, pool)


if __name__ == "__main__":
    main()
