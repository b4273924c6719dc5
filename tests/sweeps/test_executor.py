"""Sweeps on many workers: the bits of one process, in any order, and what is lost when a worker dies."""

import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_store import assert_same_data, CHUNK, D, draw, MASK, N, receipts_of, sweep

import dlnjax as dln
from dlnjax._sweeps import folder as store, parts, work
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
    assert receipt["first"] == receipt["count"] == CHUNK and receipt["device"] == jax.local_devices()[0].device_kind
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
        rf"run has 14 of {N} seeds: seeds 4 to 7, 8 to 11 are given up: the worker of each part died 3 "
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


@pytest.mark.slow
def test_a_process_has_one_thread_of_xla_unless_its_caller_asks_for_more(monkeypatch):
    for given, expected in ((None, "1"), ("2", "2")):
        monkeypatch.setenv("NPROC", given) if given else monkeypatch.delenv("NPROC", raising=False)
        with Processes(1) as processes:
            assert processes.submit(os.getenv, "NPROC").result() == expected


def test_a_process_that_cannot_be_started_is_an_error_and_no_hang(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with Processes(1) as processes:
        for _ in range(2):
            with pytest.raises(Died, match="a process could not be started, No such file"):
                processes.submit(echo, 1).result(timeout=30)


@pytest.fixture
def cached(monkeypatch, tmp_path_factory):
    """Processes that share what they compile."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.0")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many") / "run"
    sweep(folder, n=MANY)
    return folder


MANY = 402


def assert_many(folder, many):
    assert_same_data(sweep(folder, n=MANY), sweep(many, n=MANY))
    assert [r["checksum"] for r in receipts_of(folder)] == [r["checksum"] for r in receipts_of(many)]


def when_there_are(count, folder, act):
    """Call `act` in a thread as soon as the folder has so many parts."""

    def wait():
        deadline = time.monotonic() + 120
        while len([*(folder / "parts").glob("*.json")]) < count and time.monotonic() < deadline:
            time.sleep(0.002)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.mark.long
def test_killed_process_costs_its_part_and_nothing_else(tmp_path, many, cached):
    folder, killed = tmp_path / "run", []
    with Processes(2) as processes:

        def kill():
            child = next(child for child in processes.all if child.poll() is None)
            killed.append(child.pid)
            child.kill()

        threads = [when_there_are(count, folder, kill) for count in (3, 30)]
        sweep(folder, n=MANY, executor=processes)
        for thread in threads:
            thread.join()
        assert len(processes.all) >= 3
    assert len(killed) == 2
    assert_many(folder, many)


CALLER = """
import sys
import jax

jax.config.update("jax_enable_x64", True)
sys.path.insert(0, sys.argv[1])
import test_store as this

this.sweep(sys.argv[2], n=int(sys.argv[3]), executor=2)
"""


def children_of(pid):
    """The children of all threads of a process."""
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="it needs /proc to find the processes")
def test_killed_caller_leaves_no_process_and_the_same_call_goes_on(tmp_path, many, cached):
    folder = tmp_path / "run"
    arguments = [sys.executable, "-c", CALLER, str(Path(__file__).parent), str(folder), str(MANY)]
    with subprocess.Popen(arguments) as caller:
        when_there_are(5, folder, lambda: None).join()
        children = children_of(caller.pid)
        with pytest.raises(ValueError, match=rf"being written by process {caller.pid} on "):
            sweep(folder, n=MANY, executor=2)
        caller.send_signal(signal.SIGKILL)
    assert caller.returncode == -signal.SIGKILL and len(children) >= 2
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}/cmdline").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(Path(f"/proc/{child}/cmdline").exists() for child in children)
    there = receipts_of(folder)
    assert 5 <= len(there) < -(-MANY // CHUNK)
    sweep(folder, n=MANY, executor=2)
    again = {r["first"]: r for r in receipts_of(folder)}
    assert all(again[r["first"]] == r for r in there)
    assert_many(folder, many)


@pytest.mark.long
def test_pool_of_python_is_broken_by_a_death_and_a_new_one_goes_on(tmp_path, many, cached):
    folder, context = tmp_path / "run", multiprocessing.get_context("spawn")
    pool = lambda: concurrent.futures.ProcessPoolExecutor(2, mp_context=context)
    with pool() as executor:
        thread = when_there_are(5, folder, lambda: os.kill(next(iter(executor._processes)), signal.SIGKILL))
        with pytest.raises(RuntimeError, match=r"executor is broken, as one of its .* died.*executor=2.*goes on"):
            sweep(folder, n=MANY, executor=executor)
        thread.join()
    with pool() as executor:
        sweep(folder, n=MANY, executor=executor)
    assert_many(folder, many)


def test_a_scheduler_that_ended_is_said_and_the_same_call_goes_on(tmp_path, one):
    class Gone(Inline):
        def submit(self, f, job, first, attempt):
            future = super().submit(f, job, first, attempt) if first < 8 else Future()
            future.cancel()
            return future

    folder = tmp_path / "run"
    with pytest.raises(RuntimeError, match=r"has dropped its tasks, .* scheduler has ended.*goes on from there"):
        sweep(folder, executor=Gone())
    assert [r["first"] for r in receipts_of(folder)] == [0, 4]
    assert_same_folder(folder, one)


def test_no_clock_decides_which_parts_count(tmp_path, one):
    folder, far = tmp_path / "run", (0.0, 5e9)
    sweep(folder)
    (folder / "parts" / "8.json").unlink()
    for k, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        os.utime(path, (far[k % 2],) * 2)
    before = receipts_of(folder)
    sweep(folder, executor=Inline(dies=lambda first, attempt: first != 8))
    assert [r for r in receipts_of(folder) if r["first"] != 8] == before
    assert_same_folder(folder, one)


POISON = 99.0


def look(value):
    if np.any(value == POISON):
        os._exit(7)
    return np.zeros_like(value)


class Poisoned(dln.MatrixCompletion):
    """An energy that kills its process where a label is `POISON`."""

    def __call__(self, x):
        label = jax.lax.stop_gradient(self.labels[0, 0])
        shape = jax.ShapeDtypeStruct(label.shape, label.dtype)
        return super().__call__(x) + jax.pure_callback(look, shape, label, vmap_method="expand_dims")


@pytest.mark.long
def test_seed_that_kills_its_process_is_given_up_with_its_part_alone(tmp_path, cached):
    labels = np.tile(np.eye(D), (N, 1, 1))
    labels[9, 0, 0] = POISON
    energy = dln.PerSeed(Poisoned(jnp.asarray(labels), jnp.asarray(MASK)), where=lambda energy: energy.labels)
    how = {"ts": [0.0, 1.0], "depth": 2.0, "chunk": CHUNK, "progress": False}
    with pytest.raises(RuntimeError, match=rf"has {N - CHUNK} of {N} seeds: seeds 8 to 11 are given up: .* status 7"):
        dln.sweep(energy, jnp.asarray(draw(N)), folder=tmp_path / "run", executor=2, **how)
    assert [r["first"] for r in receipts_of(tmp_path / "run")] == [0, 4, 12, 16, 20]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning")
def test_dask_makes_the_folder_of_one_process(tmp_path, many, cached):
    distributed = pytest.importorskip("distributed")
    folder = tmp_path / "run"
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        pids = lambda: [worker["pid"] for worker in client.run(lambda: {"pid": os.getpid()}).values()]
        victim = pids()[0]
        thread = when_there_are(5, folder, lambda: os.kill(victim, signal.SIGKILL))
        sweep(folder, n=MANY, executor=client)
        thread.join()
    assert_many(folder, many)


@pytest.mark.parametrize("executor", [None, Inline()], ids=["here", "workers"])
def test_folder_that_becomes_read_only_releases_its_lock(tmp_path, one, monkeypatch, executor):
    def locked(path, *args, **kwargs):
        if path.suffix in (".json", ".holder", ".pickle"):
            raise PermissionError(13, "Permission denied")
        return unlink(path, *args, **kwargs)

    folder, unlink = tmp_path / "run", Path.unlink
    with monkeypatch.context() as patch:
        patch.setattr(parts, "write_whole", locked)
        patch.setattr(Path, "unlink", locked)
        with pytest.raises((ValueError, RuntimeError), match=r"cannot write to .*run: Permission denied"):
            sweep(folder, executor=executor)
    (folder / "call.pickle").unlink(missing_ok=True)
    assert_same_folder(folder, one)


@pytest.mark.parametrize("executor", [None, Inline()], ids=["here", "workers"])
def test_full_disk_is_named_and_the_same_call_goes_on(tmp_path, one, monkeypatch, executor):
    def full(path, text):
        if path.name == "8.json":
            raise OSError(28, "No space left on device")
        write(path, text)

    folder, write = tmp_path / "run", parts.write_whole
    with monkeypatch.context() as patch:
        patch.setattr(parts, "write_whole", full)
        said = (
            r"cannot write to .*run: No space left on device\. Its finished seeds are kept\. .* go(es)? on from there"
        )
        with pytest.raises((ValueError, RuntimeError), match=said):
            sweep(folder, executor=executor)
    assert {r["first"] for r in receipts_of(folder)} >= {0, 4}
    assert_same_folder(folder, one)


def test_receipts_that_come_late_cost_time_alone(tmp_path, one, monkeypatch):
    # On a network file system what a worker has written may be seen by others only later: here the receipts of the
    # first call, when the second has found none and makes new arrays.
    folder, write, make_room, late = tmp_path / "run", parts.write_whole, store.make_room, []

    def hold(path, text):
        if path.parent.name != "parts":
            return write(path, text)
        late.append((path, text))

    def release(*arguments):
        make_room(*arguments)
        for receipt in late:
            write(*receipt)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "write_whole", hold)
        sweep(folder, executor=Inline())
    monkeypatch.setattr(store, "make_room", release)
    assert len(late) == PARTS and not receipts_of(folder)
    assert_same_data(sweep(folder, executor=Inline()), sweep(one))
    assert_same_folder(folder, one)


@pytest.mark.parametrize("late", ["call.pickle", "data.zarr"])
def test_worker_waits_for_what_its_caller_has_written(tmp_path, one, monkeypatch, late):
    # A file that another machine has just made may be seen later (xarray's issue 6435).
    folder, pauses = tmp_path / "run", []

    class Hidden(Inline):
        def submit(self, *task):
            if not self.seen:
                (folder / late).rename(tmp_path / "hidden")
            return super().submit(*task)

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            (tmp_path / "hidden").rename(folder / late)

    monkeypatch.setattr(work, "time", SimpleNamespace(sleep=pause))
    sweep(folder, executor=Hidden())
    assert pauses == work._PAUSES[:3] and sum(work._PAUSES) < 103
    assert_same_folder(folder, one)


def test_worker_that_does_not_see_the_folder_says_so(tmp_path):
    class Elsewhere(Inline):
        def submit(self, f, job, *task):
            return super().submit(f, job | {"path": "/no/such/run/call.pickle"}, *task)

    with pytest.raises(RuntimeError, match=r"/no/such/run is not seen by this worker\. All workers must"):
        sweep(tmp_path / "run", executor=Elsewhere())
