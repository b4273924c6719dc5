"""What all commands use: the refusal of bad input, the settings of JAX and the check of a folder."""

import difflib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

# How much two words must have in common, from 0 to 1, for one to be taken for a slip of the other.
_NEAR = 0.7


class Refused(Exception):
    """Bad input, with what to do about it. The command line prints it as one line and ends with the exit status 2."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that names the known word nearest to `word`, or nothing if none is near."""
    near = difflib.get_close_matches(word.partition("=")[0], list(known), n=1, cutoff=_NEAR)
    return f" Did you mean {near[0]}?" if near else ""


def configure_jax() -> None:
    """Turn float64 on, and keep compiled programs on disk for the next run."""
    import jax

    import dlnjax as dln
    from dlnjax._terminal import hush

    hush()
    jax.config.update("jax_enable_x64", True)
    # Where the folder of the cache cannot be written, a command runs without a cache.
    with suppress(ValueError):
        dln.cache()


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".dlnjax-can-write"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise Refused(f"cannot write to {folder}: {reason}. Name another folder with --out.") from error
