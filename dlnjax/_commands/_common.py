"""The refusal of bad input, the settings of JAX and the check of a folder, which all commands use."""

import os
from pathlib import Path


class Refused(Exception):
    """Bad input, with what to do about it. The command line prints it as one line and ends with the exit status 2."""


def configure_jax() -> None:
    """Turn float64 on, and keep compiled programs on disk for the next run."""
    import jax

    jax.config.update("jax_enable_x64", True)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "dlnjax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


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
