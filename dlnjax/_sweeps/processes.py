"""Processes on this machine that run tasks. One that dies costs its task, and is replaced.

`concurrent.futures.ProcessPoolExecutor` is broken as a whole when one of its processes dies, and its processes live on
when their parent is killed. They also import the caller's script again, which must be written for this.
"""

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax

_SERVE = "from dlnjax._sweeps.processes import serve; serve()"
# The settings of JAX that a process takes from its caller, and the environment variables that set them.
_SETTINGS = {
    "jax_compilation_cache_dir": "JAX_COMPILATION_CACHE_DIR",
    "jax_persistent_cache_min_compile_time_secs": "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    "jax_platforms": "JAX_PLATFORMS",
    "jax_default_matmul_precision": "JAX_DEFAULT_MATMUL_PRECISION",
}


class Died(RuntimeError):
    """The process that ran a task has died."""


class Processes:
    """An executor of `count` processes. It is a context manager, at whose end the processes are killed."""

    def __init__(self, count: int):
        self.all: set[subprocess.Popen] = set()
        self.idle = queue.SimpleQueue[subprocess.Popen | None]()
        self.threads = ThreadPoolExecutor(count)
        for _ in range(count):
            self.idle.put(None)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *exception: object) -> None:
        self.threads.shutdown(wait=False, cancel_futures=True)
        for child in self.all:
            child.kill()
        self.threads.shutdown()
        for child in self.all:
            child.communicate()

    def submit(self, f: Callable, *arguments: Any) -> Future:
        """Run `f`, a function of a module, in one of the processes."""
        return self.threads.submit(self._call, f, *arguments)

    def _call(self, f: Callable, *arguments: Any) -> Any:
        child = self.idle.get()
        try:
            child = child or self._start()
        except OSError as error:
            # The place of the process is given back, since a task that finds none would wait for ever.
            self.idle.put(None)
            raise Died(f"a process could not be started, {error.strerror or error}") from error
        try:
            assert child.stdin is not None and child.stdout is not None
            pickle.dump((f, arguments), child.stdin)
            child.stdin.flush()
            answer = pickle.load(child.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            child.kill()
            child.wait()
            self.idle.put(None)
            raise Died(f"process {child.pid} ended with the status {child.returncode}") from error
        self.idle.put(child)
        return answer

    def _start(self) -> subprocess.Popen:
        environment = os.environ | {name: str(value) for key, name in _SETTINGS.items() if (value := _setting(key))}
        # XLA takes the number of its threads from this variable, and as many as there are cores without it. A process
        # works on one chunk at a time, whose program is faster with one thread than with threads that share its loops.
        environment.setdefault("NPROC", "1")
        # What the caller can import, its processes can import.
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        # In a session of its own a process does not get the Ctrl-C that is meant for its caller.
        how = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment, "start_new_session": True}
        child = subprocess.Popen([sys.executable, "-c", _SERVE], **how)
        self.all.add(child)
        return child


@contextmanager
def submitter(executor: Any) -> Iterator[Callable[..., Any]]:
    """The `submit` of an executor, or of so many processes on this machine."""
    if isinstance(executor, int):
        with Processes(executor) as processes:
            yield processes.submit
    else:
        yield executor.submit


def _setting(name: str) -> Any:
    return getattr(jax.config, name, None)


def serve() -> None:
    """Run the tasks that come on stdin, and write what they return to stdout, until the caller ends."""
    answers = os.fdopen(os.dup(1), "wb")
    # What an energy prints goes to stderr, as stdout belongs to the answers.
    os.dup2(2, 1)
    tasks = queue.SimpleQueue[Any]()
    threading.Thread(target=_read, args=(tasks,), daemon=True).start()
    while True:
        f, arguments = tasks.get()
        pickle.dump(f(*arguments), answers)
        answers.flush()


def _read(tasks: queue.SimpleQueue) -> None:
    """Take the tasks from stdin. When the caller has ended, even if it was killed, this process ends with it.

    Otherwise the process would go on with its part, and write to a folder whose lock is free.
    """
    try:
        while True:
            tasks.put(pickle.load(sys.stdin.buffer))
    except BaseException:  # whatever happens here, no task can come any more
        os._exit(0)
