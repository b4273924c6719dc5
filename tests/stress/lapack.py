"""Several programs that decompose matrices at once on a CPU: do they end?

    python tests/stress/lapack.py [--threads 2] [--size 50]

The smallest program found that shows why this library decomposes large stacks of matrices in a loop
(`dlnjax._lapack`), and why a sweep has one worker where an energy decomposes matrices by other means
(`dlnjax._sweeps.plan.calls_lapack`). It uses nothing of dlnjax. It says that the programs hang when the process has
used no time of the CPU for ten seconds, which slow ones do.
"""

import argparse
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp

BATCH, ROUNDS, CALLS = 256, 6, 10
IDLE = 10.0


def decompose(_, x):
    return (jnp.linalg.svd(x, full_matrices=False)[0] + jnp.linalg.eigh(x @ jnp.swapaxes(x, -1, -2))[1]) / 2


@jax.jit
def work(x):
    return jax.lax.fori_loop(0, CALLS, decompose, x)


def watch():
    while True:
        used = time.process_time()
        time.sleep(IDLE)
        if time.process_time() - used < IDLE / 100:
            print("They hang: no thread works, and none has ended.", flush=True)
            os._exit(1)


def main(arguments: list[str] | None = None) -> int:
    """0 if all programs end; the process ends with 1 if they hang."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", type=int, default=50)
    args = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    shape = (BATCH, args.size, args.size)
    starts = [jax.random.normal(jax.random.key(k), shape) for k in range(args.threads)]
    jax.block_until_ready(work(starts[0]))
    print("One alone ends.", flush=True)
    threading.Thread(target=watch, daemon=True).start()
    with ThreadPoolExecutor(args.threads) as pool:
        for _ in range(ROUNDS):
            list(pool.map(lambda x: jax.block_until_ready(work(x)), starts))
    print(f"{args.threads} at once end.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
