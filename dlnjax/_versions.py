"""The version of an installed package."""

from importlib.metadata import PackageNotFoundError, version


def version_of(name: str) -> str:
    """The version of the package `name`, or "0+unknown" for a tree of sources that was never installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "0+unknown"
