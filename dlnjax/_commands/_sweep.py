"""`dlnjax sweep`: computes the flows of many random starts, and prints a summary of how they ended."""

import argparse
import math

import jax
import jax.numpy as jnp

import dlnjax as dln
from dlnjax._commands._common import Refused


def sweep(args: argparse.Namespace) -> int:
    """Compute the flows, write them to a folder if one is named, and print what came out."""
    most = args.d**2
    for option, energy in (("entries", "random-mask"), ("p", "schatten")):
        if getattr(args, option) is not None and args.energy != energy:
            raise Refused(f"--{option} belongs to --energy {energy}, got --energy {args.energy}.")
    if args.entries is not None and args.entries > most:
        raise Refused(f"--entries must be at most d^2 = {most}, got {args.entries}.")
    start_key, energy_key = jax.random.split(jax.random.key(args.seed))
    std = args.std or args.d**-0.5
    starts = dln.Ensemble(lambda key: dln.gaussian(key, args.d, std), start_key, args.seeds)
    # Flows move early and rest late, so the times between are spread evenly over the logarithms of four decades.
    between = jnp.geomspace(1e-4 * args.t_end, args.t_end, args.times - 1)[:-1]
    ts = jnp.array([0.0, *between, args.t_end])
    stop = None if args.steady is None else dln.Steady(args.steady)
    options = {"depth": args.depth, "ts": ts, "rtol": args.rtol, "stop": stop}
    try:
        energy = _energy(args, energy_key)
        if args.out is None:
            sol = dln.sweep(energy, starts, **options)
        else:
            dln.sweep(energy, starts, folder=args.out, **options)
            sol = dln.load(args.out)
    except (ImportError, ValueError) as error:
        raise Refused(str(error)) from error
    print(sol)
    if args.out is not None:
        print(f"All of it is in {args.out}: dlnjax.load({str(args.out)!r}), or {args.out / 'data.zarr'} for xarray.")
    return 0


def _energy(args: argparse.Namespace, key):
    if args.energy == "diagonal":
        energy = dln.MatrixCompletion.diagonal(args.d)
    elif args.energy == "schatten":
        energy = dln.Schatten(args.p or 2.0)
    else:
        count, shape = args.entries or args.d, (args.d, args.d)

        def of_seed(key):
            label_key, mask_key = jax.random.split(key)
            order = jax.random.permutation(mask_key, args.d**2)
            return jax.random.uniform(label_key, shape, minval=-2.0, maxval=2.0), (order < count).reshape(shape)

        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(args.seeds))
        energy = dln.MatrixCompletion(*jax.vmap(of_seed)(keys))
    return energy if math.isinf(args.beta) else dln.FreeEnergy(energy, args.beta, args.depth)
