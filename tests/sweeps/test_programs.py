"""The programs of a sweep: one worker compiles while others wait, and all of them run at once."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import numpy as np

from dlnjax._sweeps.flow import Chunk
from dlnjax._sweeps.plan import Plan
from dlnjax._sweeps.run import Programs


class Recorded:
    """In place of a program. A run ends when two workers run it."""

    def __init__(self):
        self.compiled, self.both = 0, Barrier(2, timeout=30)

    def lower(self, *args: Any) -> SimpleNamespace:
        return SimpleNamespace(compile=self.count)

    def count(self) -> None:
        self.compiled += 1

    def __call__(self, *args: Any) -> int:
        return self.both.wait()


def test_workers_run_at_once_what_one_of_them_has_compiled():
    told = []
    programs: Any = Programs(Plan((), 2, 1, 1, 1, 1, quick=True, times=1), told.append)
    programs.run = Recorded()
    chunk = Chunk((), (), np.ones(1, bool))
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(lambda worker: programs(print, None, chunk, (), 0), range(2))) == [0, 1]
    assert programs.run.compiled == 1 and told == [True, False]
