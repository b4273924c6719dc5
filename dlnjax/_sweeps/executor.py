"""The caller of a sweep on many workers: it hands out the parts, and tries again where a worker died."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError
from typing import Any

from dlnjax._sweeps.parts import of_parts

# A part whose worker dies is tried so many times. At the last of them nothing else runs, so that no part is given up
# for the fault of another that killed their common worker.
_TRIES = 3
# The scheduler holds at most this many tasks at a time.
_MOST_AT_ONCE = 4096
# The seconds between two looks at the futures. Executors have `done` in common, and no way to wait for one of many.
_PAUSE = 0.05


class Lost(RuntimeError):
    """What has to be said if some parts of a sweep could not be computed."""


def require_executor(executor: Any) -> None:
    """An error for what has no `submit` and is no number of processes."""
    number = isinstance(executor, int) and not isinstance(executor, bool) and executor >= 1
    if not number and (isinstance(executor, type) or not callable(getattr(executor, "submit", None))):
        raise TypeError(
            "executor must be a number of processes, or have a method submit(f, *args) that returns a future, as a "
            f"dask.distributed.Client has, got {executor!r}."
        )


def hand_out(
    submit: Callable[..., Any], f: Callable, job: Any, parts: Mapping[int, int], what: str = "seeds"
) -> Iterator[tuple[int, Any]]:
    """(first, what `f` returned) for each part that is finished, as soon as it is.

    `parts` has the number of seeds of each part, or of `what` it consists of, by the first of them.

    **Raises:** `Lost`, at the end, if some parts were given up, and at once if no part can be computed any more.
    """
    waiting, last_tries = deque(parts), deque[int]()
    tries, given_up, running = Counter[int](), dict[int, str](), dict[int, Any]()
    try:
        while waiting or last_tries or running:
            while len(running) < _MOST_AT_ONCE and (waiting or (last_tries and not running)):
                first = waiting.popleft() if waiting else last_tries.popleft()
                tries[first] += 1
                running[first] = _submitted(submit, f, job, first, tries[first])
            ended = [first for first, future in running.items() if future.done()]
            if not ended:
                time.sleep(_PAUSE)
            for first in ended:
                death, answer = _outcome(running.pop(first))
                if death is None:
                    yield first, answer
                elif tries[first] == _TRIES:
                    given_up[first] = death
                else:
                    (last_tries if tries[first] == _TRIES - 1 else waiting).append(first)
    finally:
        for future in running.values():
            getattr(future, "cancel", lambda: None)()
    if given_up:
        named = of_parts({first: parts[first] for first in given_up}, what)
        raise Lost(
            f"{named} are given up: the worker of each part died {_TRIES} times, the last with "
            f"{next(iter(given_up.values()))}. The other parts are finished."
        )


def _submitted(submit: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return submit(*arguments)
    except Exception as error:  # each executor has its own way to say that it takes no more
        raise Lost(f"the executor takes no more tasks: {_said(error)}. Make a new one.") from error


def _outcome(future: Any) -> tuple[str | None, Any]:
    """(None, the answer), or (how its worker died, None)."""
    try:
        answer = future.result()
    except BrokenExecutor as error:
        raise Lost(
            f"the executor is broken, as one of its workers has died: {_said(error)}. Make a new executor. A number, "
            "such as executor=2, replaces workers that die. In a script, what makes an executor of processes stands "
            'below `if __name__ == "__main__":`.'
        ) from error
    except CancelledError as error:
        raise Lost(
            f"the executor has dropped its tasks, as it does when its scheduler has ended or cannot be reached: "
            f"{_said(error)}. Make a new executor."
        ) from error
    except Exception as error:  # each executor has its own class for a worker that died
        return _said(error), None
    if "error" in answer:
        raise Lost(f"a worker, {answer['who']}, could not compute its part. {answer['error'].rstrip('. ')}.")
    return None, answer


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(":. ")
