"""Sweeps on many workers: the bits of one process, in any order, and what is lost when a worker dies."""

import concurrent.futures
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_store import assert_same_data, CHUNK, D, draw, MASK, N, receipts_of, sweep

import dlnjax as dln
from dlnjax._sweeps import work
from dlnjax._sweeps.processes import Died, Processes

PARTS = -(-N // CHUNK)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The sweep of one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    sweep(folder)
    return folder


def assert_same_folder(folder, one):
    assert_same_data(sweep(folder), sweep(one))
    assert [r["checksum"] for r in receipts_of(folder)] == [r["checksum"] for r in receipts_of(one)]
    assert {path.name for path in folder.iterdir()} <= {"call.json", "call.lock", "data.zarr", "parts"}


class Inline:
    """An executor that runs each task when it is submitted, or loses it if `dies` says so."""

    def __init__(self, dies=lambda first, attempt: False, reverse=False):
        self.dies, self.seen = dies, []

    def submit(self, f, job, first, attempt):
        self.seen.append(first)
        future = Future()
        if self.dies(first, attempt):
            future.set_exception(RuntimeError("the node is gone"))
        else:
            future.set_result(f(job, first, attempt))
        return future


class Late(Inline):
    """An executor whose tasks end in the opposite order."""

    def __init__(self):
        super().__init__()
        self.held = []

    def submit(self, *task):
        future = Future()
        self.held.append((future, task))
        if len(self.held) == PARTS:
            for future, (f, *arguments) in reversed(self.held):
                self.seen.append(arguments[1])
                future.set_result(f(*arguments))
        return future


def test_parts_in_any_order_make_the_folder_of_one_process(tmp_path, one):
    executor = Late()
    sweep(tmp_path / "run", executor=executor)
    assert executor.seen == [*range(0, N, CHUNK)][::-1]
    assert_same_folder(tmp_path / "run", one)
    receipt = receipts_of(tmp_path / "run")[1]
    assert receipt["first"] == receipt["count"] == CHUNK and receipt["device"] == "cpu"
    assert receipt["versions"]["jax"] == jax.__version__ and receipt["versions"]["dlnjax"] == dln.__version__


def test_an_executor_takes_up_what_a_process_began_and_the_other_way_round(tmp_path, one):
    folder = tmp_path / "run"
    with pytest.raises(RuntimeError, match="given up"):
        sweep(folder, executor=Inline(dies=lambda first, attempt: first >= 8))
    assert [r["first"] for r in receipts_of(folder)] == [0, 4]
    with pytest.raises(RuntimeError, match="given up"):
        sweep(folder, executor=(executor := Inline(dies=lambda first, attempt: first != 16)))
    assert set(executor.seen) == {8, 12, 16, 20} and [r["first"] for r in receipts_of(folder)] == [0, 4, 16]
    assert_same_folder(folder, one)


def test_a_worker_that_dies_costs_its_part_which_is_tried_again(tmp_path, one):
    executor = Inline(dies=lambda first, attempt: first in (4, 12) and attempt < 3)
    sweep(tmp_path / "run", executor=executor)
    # The last try is alone, after all others.
    assert sorted(executor.seen[:-2]) == sorted([*range(0, N, CHUNK), 4, 12]) and executor.seen[-2:] == [4, 12]
    assert_same_folder(tmp_path / "run", one)


def test_a_part_whose_worker_always_dies_is_named_and_all_others_arrive(tmp_path, one):
    folder = tmp_path / "run"
    message = (
        rf"run has 14 of {N} seeds: the parts that begin with the seeds 4, 8 are given up: the worker of each died 3 "
        r"times, the last with RuntimeError: the node is gone\. The other parts are finished\. The same call again goes"
    )
    with pytest.raises(RuntimeError, match=message):
        sweep(folder, executor=Inline(dies=lambda first, attempt: first in (4, 8)))
    with pytest.raises(ValueError, match=rf"has 14 of {N} seeds"):
        dln.load(folder)
    assert_same_folder(folder, one)


def test_another_version_on_a_worker_is_refused(tmp_path, monkeypatch):
    class Other(Inline):
        def submit(self, *task):
            with monkeypatch.context() as patch:
                patch.setattr(work, "versions", lambda: {"dlnjax": dln.__version__, "jax": "0.1", "jaxlib": "0.1"})
                return super().submit(*task)

    message = rf"has 0 of {N} seeds: a worker, process \d+ on .*, could not compute its part\. .*has jax 0\.1 and not "
    with pytest.raises(RuntimeError, match=message):
        sweep(tmp_path / "run", executor=Other())
    assert not receipts_of(tmp_path / "run")


def test_a_worker_that_was_forked_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "_IMPORTED_IN", os.getpid() + 1)
    with pytest.raises(RuntimeError, match=r"forked from a process that uses JAX.*\"spawn\".*executor=2"):
        sweep(tmp_path / "run", executor=Inline())


def test_a_worker_unpickles_only_what_its_caller_wrote(tmp_path):
    class Meddler(Inline):
        def submit(self, f, job, first, attempt):
            Path(job["path"]).write_bytes(b"something else")
            return super().submit(f, job, first, attempt)

    with pytest.raises(RuntimeError, match=r"call\.pickle is not what the caller of this sweep wrote"):
        sweep(tmp_path / "run", executor=Meddler())


def test_an_executor_that_takes_no_tasks_is_named(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pass
    with pytest.raises(RuntimeError, match=r"takes no more tasks: .*shutdown\. Make a new one\. The same call again"):
        sweep(tmp_path / "run", executor=pool)


REFUSED = {
    "no executor": ({"executor": "dask"}, TypeError, "executor must be a number of processes, or have a method submit"),
    "a class": ({"executor": Inline}, TypeError, "executor must be a number"),
    "no processes": ({"executor": 0}, TypeError, "executor must be a number"),
    "a flag": ({"executor": True}, TypeError, "executor must be a number"),
    "devices": ({"executor": 2, "devices": jax.devices()}, ValueError, "devices are those of this process"),
    "a lock": ({"executor": Inline(), "observe": lambda point, lock=threading.Lock(): point.sigma}, TypeError, "sent"),
}


@pytest.mark.parametrize(("options", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_no_worker_can_be_given_is_refused(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        sweep(tmp_path / "run", **options)
    with pytest.raises(ValueError, match="executor needs a folder"):
        sweep(executor=Inline())


def test_the_arrays_are_the_same_for_what_is_observed_and_for_depths_of_the_seeds(tmp_path):
    how = {"depth": np.linspace(1.0, 5.0, N), "observe": lambda point: point.matrix[0] > 0.1}
    assert_same_data(sweep(tmp_path / "a", executor=Inline(), **how), sweep(tmp_path / "b", **how))


# Processes


def echo(x):
    if x is None:
        os._exit(3)
    return x, os.getpid()


@pytest.mark.slow
def test_a_process_that_dies_is_replaced():
    with Processes(1) as processes:
        _, first = processes.submit(echo, 1).result()
        with pytest.raises(Died, match=rf"process {first} ended with the status 3"):
            processes.submit(echo, None).result()
        assert processes.submit(echo, [2]).result()[0] == [2]
        assert processes.submit(echo, 3).result()[1] != first


