"""The prerequisites: finite numbers, matching supports, and items that do not depend on the rest of the batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from ladle.families import mean
from ladle.health.findings import Context, Finding, stage
from ladle.inference.evidence import batch_norms
from ladle.model.latents import centres, replay
from ladle.recipes.assemble import check_support
from ladle.spec import SpecError
from ladle.tasks.common import each_batch

# Relative to the magnitude of a number. Other batch sizes change the order of float32 sums, which makes differences of
# less than a tenth of this in every healthy model tried; batch statistics make differences of at least ten times this.
SAME = 1e-4
NEIGHBOURS, ALONE = 32, 6


@stage(1, "weights")
def weights(context: Context) -> Finding:
    """Whether every weight is finite, and the latents and reconstructions computed from them too."""
    tensors = [*context.vae.named_parameters(), *context.vae.named_buffers()]
    count = sum(t.numel() for _, t in tensors)
    bad = {name: int((~torch.isfinite(t)).sum()) for name, t in tensors if not torch.isfinite(t).all()}
    measured = {"numbers": count, "not finite": sum(bad.values())}
    if bad:
        name, *more = bad
        also = f" and {len(more)} more tensors" if more else ""
        return Finding(
            "weights", False, measured,
            f"{sum(bad.values()):,} of {count:,} weights are NaN or infinite, in '{name}'{also}",
            "the model is damaged: restore an earlier checkpoint or copy, or fit it again",
        )  # fmt: skip
    zs = context.tested.zs
    outputs = [*(("latents", z) for z in zs), ("reconstructions", torch.from_numpy(context.decoded(zs)))]
    bad_outputs = [what for what, values in outputs
                   if not torch.isfinite(values).all()]  # fmt: skip
    if bad_outputs:
        return Finding(
            "weights", False, measured,
            f"all {count:,} weights are finite, but the {bad_outputs[0]} of test items are not",
            "look for a logarithm or division in the family or network whose argument can reach zero",
        )  # fmt: skip
    return Finding("weights", True, measured, f"all {count:,} weights, the latents and the reconstructions are finite")


@stage(2, "supports")
def supports(context: Context) -> Finding:
    """Whether the data are in the support of the likelihood, and draws of the posterior in the support of the prior."""
    vae, family = context.vae, context.vae.likelihood.family
    try:
        check_support(type(family).__name__, family, context.schema)
    except SpecError as error:
        return _outside({}, str(error), "assemble the model with a likelihood whose support matches the data")
    outside = total = impossible = 0
    for x, seen, d in _explained(context):
        inside = torch.ones_like(x, dtype=torch.bool)
        for support in (family.support, _support(d)):
            if support is not None:
                held = support.check(x)
                inside &= held if held.shape == x.shape else held.reshape(*held.shape, *[1] * (x.dim() - held.dim()))
        outside += int((~inside & seen).sum())
        total += int(seen.sum())
        log_px = d.log_prob(x)
        bad = ~torch.isfinite(log_px)  # for a joint distribution, one value per item
        impossible += int((bad.reshape(*bad.shape, *[1] * (x.dim() - bad.dim())) & seen).sum())
    measured: dict[str, float] = {"values": total, "outside": outside, "impossible": impossible}
    if outside or impossible:
        what = f"{outside:,} of {total:,} values of the data are outside the support of the likelihood"
        if not outside:
            what = f"the density of the likelihood is not finite at {impossible:,} of {total:,} values of the data"
        return _outside(measured, f"{what} ({type(family).__name__})", "use a likelihood that fits the data")
    prior = getattr(vae.latents, "prior", None)
    if prior is None:
        return Finding("supports", True, measured, f"all {total:,} values of the data are in the support; no prior")
    z = context.tested.zs[0]  # below the top of a hierarchy, posterior and prior are members of one family
    away = float((~prior.support.check(z)).float().mean())
    lead = prior(len(z), {}, vae.latents.posterior).log_prob(z)  # type: ignore[operator,attr-defined]
    measured |= {"latents outside": away}
    if away or not torch.isfinite(lead).all():
        found = f"{vae.latents.posterior.family.support}, that of the prior is {prior.support}"  # type: ignore[union-attr,attr-defined]
        return _outside(
            measured, f"draws of the posterior leave the support of the prior: the support of the posterior is {found}",
            "give prior and posterior the same support",
        )  # fmt: skip
    return Finding(
        "supports", True, measured, f"all {total:,} values of the data and all latents are in their supports"
    )


def _outside(measured: dict[str, float], reason: str, remedy: str) -> Finding:
    return Finding("supports", False, measured, reason, remedy)


def _explained(context: Context) -> Iterator[tuple[Tensor, Tensor, Distribution]]:
    """Batches of test items, the mask of their observed values, and the likelihood at their latents."""
    start = 0
    for batch in each_batch(context.model, context.test):
        rows = slice(start, start + len(batch.x))
        d = context.likelihood(context.tested.zs, rows)
        yield batch.x, torch.ones_like(batch.x, dtype=torch.bool) if batch.observed is None else batch.observed, d
        start += len(batch.x)


def _support(d: Distribution) -> Constraint | None:
    try:
        return d.support
    except (NotImplementedError, AttributeError):
        return None


@stage(3, "neighbours")
def neighbours(context: Context) -> Finding:
    """Whether an item has the same latents and density alone as in a batch, so that no batch statistics are used."""
    remedy = "replace it by a normalisation of each item (LayerNorm, GroupNorm) or remove it, and fit again"
    found = batch_norms(context.vae)
    if found:
        names = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        return Finding(
            "neighbours", False, {"batch norms": len(found)},
            f"batch normalisation in {names}: the density of an item would depend on other items of the batch "
            "or on statistics of the training set",
            remedy,
        )  # fmt: skip
    if context.vae.training:
        return Finding("neighbours", False, {}, "the model is in training mode", "call model.vae.eval() first")
    batch = next(each_batch(context.model, context.test, NEIGHBOURS))
    together = _numbers(context, batch)
    worst = 0.0
    for row in range(min(ALONE, len(batch.x))):
        alone = type(batch)(
            batch.x[row : row + 1],
            None if batch.observed is None else batch.observed[row : row + 1],
            {k: v[row : row + 1] for k, v in batch.context.items()},
            batch.index[row : row + 1],
        )
        for one, among in zip(_numbers(context, alone), together, strict=True):
            scale = among[row].abs().max() + 1
            worst = max(worst, float((one[0] - among[row]).abs().max() / scale))
    measured = {"relative difference": worst}
    if worst > SAME:
        return Finding(
            "neighbours", False, measured,
            f"the latents or density of an item differ by a relative {worst:.1g} between a batch and the item alone: "
            "a network mixes items",
            remedy,
        )  # fmt: skip
    return Finding(
        "neighbours", True, measured, f"an item has the same numbers alone and in a batch (within {worst:.0e})"
    )


def _numbers(context: Context, batch) -> list[Tensor]:  # type: ignore[no-untyped-def]
    """The latents, the density given them and the reconstruction of each item."""
    with torch.no_grad():
        zs = [level.z for level in context.vae.walk(centres, batch).levels]
        terms = context.vae(batch, draw=replay(zs))
        blank = context.vae.blank(len(batch.x))
        d = context.vae.explain(context.vae.walk(replay(zs), blank).h, blank)
        return [*zs, terms.log_px, mean(d)]
