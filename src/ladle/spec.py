"""Parts and their specs: models as plain data.

A *part* is a class or function registered under ``kind/name``. Its *spec* is the dictionary of its constructor
arguments plus ``{"part": "kind/name"}``. Specs may be nested and are plain JSON. :func:`build` creates a part from its
spec by looking its name up in the registry; nothing is ever imported because a spec names it.

    >>> from ladle.spec import build, to_spec
    >>> family = build({"part": "family/categorical", "classes": 3})
    >>> to_spec(family)
    {'part': 'family/categorical', 'classes': 3}
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

# The package that holds the parts of each kind. Its modules are discovered automatically.
PACKAGES = {
    "family": "families",
    "net": "nets",
    "model": "model",
    "conditional": "model",
    "latents": "model.latents",
    "prior": "model.priors",
    "objective": "objectives",
    "recipe": "recipes",
    "dataset": "data",
    "format": "data",
    "writer": "data",
    "check": "health",
    "candidate": "comparison",
}

_REGISTRY: dict[str, dict[str, Any]] = {}


class SpecError(ValueError):
    """A spec cannot be built: it has an unknown part, or missing, unknown or invalid arguments."""


def part(kind: str, name: str) -> Callable[[T], T]:
    """Register a class or function as the part ``kind/name``.

    The constructor of a class is wrapped so that every instance stores its spec. Running the same definition again, as
    in a notebook, replaces the part.

    Raises:
        SpecError: if the kind is unknown, or another class or function is registered under the name.
    """
    _package(kind)

    def register(thing: T) -> T:
        known, here = _REGISTRY.setdefault(kind, {}), _origin(thing)
        if name in known and _origin(known[name]) != here:
            raise SpecError(
                f"part '{kind}/{name}' is registered twice: by {_origin(known[name])} and by {here}; "
                "give one of them another name"
            )
        known[name] = thing
        if inspect.isclass(thing):
            _remember_arguments(thing, f"{kind}/{name}")
        return thing

    return register


def _remember_arguments(cls: type, full_name: str) -> None:
    init = cls.__init__  # type: ignore[misc]
    signature = inspect.signature(init)
    named = [p.name for p in list(signature.parameters.values())[1:] if p.kind is p.POSITIONAL_OR_KEYWORD]

    @functools.wraps(init)
    def remembering(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = {k: _plain(v) for k, v in bound.arguments.items() if k in named}
        object.__setattr__(self, "_spec", {"part": full_name, **arguments})
        init(self, *args, **kwargs)

    cls.__init__ = remembering  # type: ignore[misc]


def _plain(value: Any) -> Any:
    """A constructor argument as plain JSON data."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "_spec"):
        return value._spec
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    raise SpecError(f"a part's arguments must be plain data or parts, got {type(value).__name__}")


def to_spec(thing: Any) -> dict[str, Any]:
    """The spec of a built part.

    Raises:
        SpecError: if ``thing`` is not a registered part.
    """
    if not hasattr(thing, "_spec"):
        raise SpecError(f"{type(thing).__name__} is not a registered part")
    return thing._spec


def build(spec: Any) -> Any:
    """Build a part, and the parts inside it, from a spec.

    Raises:
        SpecError: if a kind or name is unknown (the message lists the known ones), or the arguments are not valid.
    """
    if isinstance(spec, Mapping) and "part" in spec:
        arguments = {k: build(v) for k, v in spec.items() if k != "part"}
        maker = lookup(spec["part"])
        if not inspect.isclass(maker):  # such as a writer: an untrusted spec must not call it
            raise SpecError(f"part '{spec['part']}' is a function, and no part of a spec")
        takes = inspect.signature(maker).parameters
        unknown = [name for name in arguments if name not in takes]
        if unknown:
            told = f"unknown argument '{unknown[0]}'{nearest(unknown[0], takes)}"
            raise SpecError(f"part '{spec['part']}': {told}; known: {', '.join(takes) or 'none'}")
        try:
            inspect.signature(maker).bind(**arguments)
        except TypeError as error:
            raise SpecError(f"part '{spec['part']}': {error}") from None
        try:
            return maker(**arguments)
        except SpecError:  # raised by a nested part, and names it
            raise
        except ValueError as error:
            raise SpecError(f"part '{spec['part']}': {error}") from None
    if isinstance(spec, Mapping):
        return {k: build(v) for k, v in spec.items()}
    if isinstance(spec, (list, tuple)):
        return [build(v) for v in spec]
    return spec


def lookup(full_name: Any) -> Any:
    """The class or function registered as ``kind/name``.

    Raises:
        SpecError: if the kind or name is unknown; the message gives the most similar name and lists all.
    """
    kind, _, name = str(full_name).partition("/")
    known = registered(kind)
    if name not in known:
        raise SpecError(f"unknown {kind} '{name}'{nearest(name, known)}; known: {', '.join(sorted(known))}")
    return known[name]


def nearest(name: str, known: Iterable[str]) -> str:
    """A suggestion for an error message: the known name that is most similar to ``name``, or an empty string.

    >>> nearest("learnt_prior", ["vae", "learned_prior"]), nearest("x", ["vae"])
    (" (did you mean 'learned_prior'?)", '')
    """
    found = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean '{found[0]}'?)" if found else ""


@functools.cache
def registered(kind: str) -> Mapping[str, Any]:
    """The parts of one kind, by name. The first call imports the package that contains them, and no other.

    Raises:
        SpecError: if the kind is unknown.
    """
    name = f"ladle.{_package(kind)}"
    for module in pkgutil.iter_modules(importlib.import_module(name).__path__):
        importlib.import_module(f"{name}.{module.name}")
    return _REGISTRY.setdefault(kind, {})


def parts() -> Mapping[str, Mapping[str, Any]]:
    """All registered parts, by kind and name."""
    return {kind: registered(kind) for kind in PACKAGES}


def _package(kind: str) -> str:
    if kind not in PACKAGES:
        raise SpecError(f"unknown kind of part '{kind}'{nearest(kind, PACKAGES)}; known: {', '.join(sorted(PACKAGES))}")
    return PACKAGES[kind]


def _origin(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"
