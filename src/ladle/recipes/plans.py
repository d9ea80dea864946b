"""Plans: the nested dictionaries that recipes return and :func:`ladle.assemble` builds models from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ladle.spec import SpecError, nearest

REQUIRED = {"latents", "decoder", "likelihood", "objective"}
OPTIONAL = {"encoder", "training", "context"}
# The keys of the 'latents' of a plan, by the part that they describe.
LATENTS = {
    "latents/flat": {"size", "posterior", "prior"},
    "latents/ladder": {"size", "posterior", "prior", "blocks", "width"},
}


def latents_part(plan: Mapping[str, Any]) -> str:
    """The part that a plan's latents describe: ``latents/ladder`` for several levels, otherwise ``latents/flat``.

    >>> latents_part({"latents": {"size": 8}}), latents_part({"latents": {"size": 8, "blocks": "1, 2x2"}})
    ('latents/flat', 'latents/ladder')
    """
    return "latents/ladder" if "blocks" in plan["latents"] else "latents/flat"


def has_levels(plan: Mapping[str, Any]) -> bool:
    """Whether the latents of a plan have several levels."""
    return latents_part(plan) == "latents/ladder"


def check_plan(plan: Mapping[str, Any]) -> None:
    """Refuse a plan with an unknown key or without a required key.

    Raises:
        SpecError: with the key, and for an unknown key the most similar known one.
    """
    needs_encoder = isinstance(plan.get("latents"), Mapping) and not has_levels(plan)
    _check_keys("a plan", plan, REQUIRED | ({"encoder"} if needs_encoder else set()), OPTIONAL)
    latents = plan["latents"]
    _check_keys("the 'latents' of a plan", latents, LATENTS[latents_part(plan)], set())
    for key in ("encoder", "decoder", "likelihood", "objective"):
        _check_part(key, plan.get(key), optional=key == "encoder")
    _check_part("latents' 'posterior", latents["posterior"])
    _check_part("latents' 'prior", latents["prior"], optional=True)


def _check_keys(what: str, got: Any, required: set[str], optional: set[str]) -> None:
    if not isinstance(got, Mapping):
        raise SpecError(f"{what} must be a dictionary with the keys {', '.join(sorted(required))}, got {got!r:.100}")
    known = required | optional
    for key in got:
        if key not in known:
            raise SpecError(
                f"{what} has the unknown key '{key}'{nearest(str(key), known)}; known: {', '.join(sorted(known))}"
            )
    lacking = sorted(required - set(got))
    if lacking:
        raise SpecError(f"{what} needs the key '{lacking[0]}', got {', '.join(map(str, got)) or 'nothing'}")


def _check_part(key: str, got: Any, optional: bool = False) -> None:
    if got is None and optional:
        return
    if not isinstance(got, Mapping) or not isinstance(got.get("part"), str):
        raise SpecError(f"the '{key}' of a plan must be a part, such as {{'part': 'net/mlp'}}, got {got!r:.100}")
