"""`dlnjax sweep`: computes the flows of many random starts, and prints a summary of how they ended."""

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import dlnjax as dln
from dlnjax._commands._common import Refused
from dlnjax._loaded import solution_of

# How long a Dask scheduler may take to answer.
_SECONDS_TO_CONNECT = 10


def sweep(args: argparse.Namespace) -> int:
    """Compute the flows, write them to a folder if one is named, and print what came out."""
    _require_out(args)
    most = args.d**2
    _require_fitting(args)
    for option, energy in (("entries", "random-mask"), ("p", "schatten"), ("entry", "entries"), ("weight", "entries")):
        if getattr(args, option) is not None and args.energy != energy:
            raise Refused(f"--{option} belongs to --energy {energy}, got --energy {args.energy}.")
    if len(args.depth or ()) > 1 and args.energy == "random-mask" and math.isfinite(args.beta):
        raise Refused("--energy random-mask with --beta takes one --depth: run one sweep for each depth.")
    if args.entries is not None and args.entries > most:
        raise Refused(f"--entries must be at most d^2 = {most}, got {args.entries}.")
    start_key, energy_key = jax.random.split(jax.random.key(args.seed))
    std = args.std or args.d**-0.5
    starts = dln.Ensemble(lambda key: dln.gaussian(key, args.d, std), start_key, args.seeds)
    depths = args.depth or [math.inf]
    over: dict[str, Any] = {"depth": depths[0]} if len(depths) == 1 else {"grid": {"depth": depths}}
    if args.imbalance is not None:
        over = {"depth": dln.Imbalanced(args.imbalance)}
    options = over | {"ts": _times(args), "max_steps": args.max_steps}
    if args.noise is None:
        options |= {"rtol": args.rtol, "stop": None if args.steady is None else dln.Steady(args.steady)}
    else:
        options |= {"noise": dln.Noise(energy_key, args.noise, args.dt)}
    try:
        energy = _energy(args, energy_key)
        with _executor(args) as executor:
            found = dln.sweep(energy, starts, folder=args.out, executor=executor, **options)
        if len(depths) == 1:
            print(found if args.out is None else dln.load(args.out))
        for depth in depths if len(depths) > 1 else ():
            print(f"depth {depth:g}: {solution_of(found.sel(depth=depth), 'the sweep')}")
    except (ImportError, ValueError, RuntimeError) as error:
        raise Refused(str(error)) from error
    if args.out is not None:
        print(f"All of it is in {args.out}: dlnjax.load({str(args.out)!r}), or {args.out / 'data.zarr'} for xarray.")
    return 0


def _times(args: argparse.Namespace) -> Any:
    if args.noise is not None:
        return jnp.linspace(0.0, args.t_end, args.times)
    # Flows move early and rest late, so the times between are spread evenly over the logarithms of four decades.
    between = jnp.geomspace(1e-4 * args.t_end, args.t_end, args.times - 1)[:-1]
    return jnp.array([0.0, *between, args.t_end])


def _require_fitting(args: argparse.Namespace) -> None:
    if (args.noise is None) != (args.dt is None):
        raise Refused("--noise and --dt go together: the inverse temperature, and the longest step.")
    if args.noise is not None and args.rtol is not None:
        raise Refused("--rtol has no meaning beside --noise, whose steps are of the length --dt: leave one out.")
    if args.noise is not None and args.steady is not None:
        raise Refused("--steady has no meaning beside --noise, which never rests: leave one out.")
    if args.imbalance is not None and (args.depth or args.noise is not None or math.isfinite(args.beta)):
        raise Refused("--imbalance is of two layers without noise: leave out --depth, --noise and --beta.")


def _require_out(args: argparse.Namespace) -> None:
    for option in ("workers", "scheduler"):
        if getattr(args, option) is not None and args.out is None:
            raise Refused(f"--{option} needs --out: the workers write to a folder.")
    if args.workers is not None and args.scheduler is not None:
        raise Refused("--workers and --scheduler exclude each other: a Dask cluster has its own workers.")


@contextmanager
def _executor(args: argparse.Namespace) -> Iterator[Any]:
    """Who computes: this process, processes of this machine, or a Dask cluster."""
    if args.scheduler is None:
        yield args.workers
        return
    try:
        from distributed import Client  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise Refused("--scheduler needs Dask: pip install 'distributed>=2025.4'.") from error
    try:
        client = Client(args.scheduler, timeout=_SECONDS_TO_CONNECT)
    except (OSError, ValueError) as error:
        raise Refused(f"--scheduler: no Dask scheduler answers at {args.scheduler!r}: {error}.") from error
    with client:
        yield client


def _energy(args: argparse.Namespace, key):
    if args.energy == "diagonal":
        energy = dln.MatrixCompletion.diagonal(args.d)
    elif args.energy == "schatten":
        energy = dln.Schatten(args.p or 2.0)
    elif args.energy == "entries":
        energy = _completion(args)
    else:
        count, shape = args.entries or args.d, (args.d, args.d)

        def of_seed(key):
            label_key, mask_key = jax.random.split(key)
            order = jax.random.permutation(mask_key, args.d**2)
            return jax.random.uniform(label_key, shape, minval=-2.0, maxval=2.0), (order < count).reshape(shape)

        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(args.seeds))
        energy = dln.MatrixCompletion(*jax.vmap(of_seed)(keys))
    if math.isinf(args.beta):
        return energy
    if len(args.depth or ()) > 1:
        return dln.Family(lambda depth: dln.FreeEnergy(energy, args.beta, depth))
    return dln.FreeEnergy(energy, args.beta, *(args.depth or [math.inf]))


def _completion(args: argparse.Namespace) -> dln.MatrixCompletion:
    """The completion of the entries that the options name."""
    if not args.entry:
        raise Refused("--energy entries needs --entry I,J=V, once for each entry that is seen.")
    labels, mask = np.zeros((args.d, args.d)), np.zeros((args.d, args.d), bool)
    for i, j, value in args.entry:
        if max(i, j) >= args.d:
            raise Refused(f"--entry must be rows and columns from 0 to d - 1 = {args.d - 1}, got {i},{j}.")
        if mask[i, j]:
            raise Refused(f"--entry must name each entry once, got {i},{j} twice.")
        labels[i, j], mask[i, j] = value, True
    return dln.MatrixCompletion(labels, mask, weight=args.weight or 0.5)
