"""The objects of the caller as bytes, for a worker. Those of a script or a notebook go by value, with cloudpickle."""

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import cloudpickle
import equinox as eqx


def dumps(x: Any) -> bytes:
    """The bytes of any object, which `pickle.loads` reads."""
    file = io.BytesIO()
    _Pickler(file).dump(x)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):
    """A pickler that keeps the fields of a module of Equinox.

    cloudpickle makes a class without attributes, and gives it its attributes afterwards. Equinox asks a class for its
    fields when it is made. It would take an energy for a tree without leaves, and would drop its arrays without a word.
    """

    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if isinstance(reduced, tuple) and isinstance(obj, type) and issubclass(obj, eqx.Module):
            make, arguments, *rest = reduced
            return (_with_fields, (make, arguments, _own_fields(obj)), *rest)
        return reduced


_ASKED = ("init", "repr", "hash", "compare", "kw_only")


def _own_fields(module: type) -> dict[str, dict[str, Any]]:
    """The arguments of `dataclasses.field` of each field that a class adds to those of its bases."""
    own = vars(module).get("__annotations__", {})
    found = {}
    for field in dataclasses.fields(module):  # pyright: ignore[reportArgumentType]
        if field.name in own:
            found[field.name] = {name: getattr(field, name) for name in _ASKED} | {"metadata": dict(field.metadata)}
            for name in ("default", "default_factory"):
                # What stands for no default is one object, which the bytes do not keep.
                if getattr(field, name) is not dataclasses.MISSING:
                    found[field.name][name] = getattr(field, name)
    return found


def _with_fields(make: Callable[..., type], arguments: tuple[Any, ...], fields: dict[str, dict[str, Any]]) -> type:
    """The class that `make` makes of these arguments, one of which is its namespace, with these fields."""
    names: dict[str, Any] = {name: dataclasses.field(**how) for name, how in fields.items()}
    names["__annotations__"] = dict.fromkeys(fields, Any)
    return make(*(names | x if isinstance(x, dict) else x for x in arguments))
