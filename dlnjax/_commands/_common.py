"""What the commands share."""

import os
from pathlib import Path


class Refused(Exception):
    """Input that the command line cannot serve, and what to do: printed as one line, exit status 2."""


def configure_jax() -> None:
    """float64, and compilations kept for the next run."""
    import jax

    jax.config.update("jax_enable_x64", True)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "dlnjax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def check_writable(folder: Path) -> None:
    """Find out before any work is done whether `folder` can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".dlnjax-can-write"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise Refused(f"cannot write to {folder}: {reason}. Name another folder with --out.") from error
