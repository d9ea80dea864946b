"""The ground of the ladder: finite numbers, the right supports, and items that do not depend on their neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from ladle.families import mean
from ladle.health.findings import Context, Finding, rung
from ladle.inference.evidence import batch_norms
from ladle.model.latents import centres, replay
from ladle.recipes.assemble import check_support
from ladle.spec import SpecError
from ladle.tasks.common import each_batch

# Of the magnitude of a number: float32 sums in another order, which other sizes of batches bring, differ by less than
# a tenth of it in every healthy model tried; batch statistics differ by ten times as much and more.
SAME = 1e-4
NEIGHBOURS, ALONE = 32, 6


@rung(1, "weights")
def weights(context: Context) -> Finding:
    """Every weight is finite, and so are the latents and the reconstructions that come of them."""
    tensors = [*context.vae.named_parameters(), *context.vae.named_buffers()]
    count = sum(t.numel() for _, t in tensors)
    bad = {name: int((~torch.isfinite(t)).sum()) for name, t in tensors if not torch.isfinite(t).all()}
    measured = {"numbers": count, "not finite": sum(bad.values())}
    if bad:
        name, *more = bad
        also = f" and {len(more)} more tensors" if more else ""
        return Finding(
            "weights", False, measured, f"{sum(bad.values()):,} of {count:,} are NaN or infinite, in '{name}'{also}",
            "the model is damaged: take a checkpoint or copy from before, or fit it again",
        )  # fmt: skip
    zs = context.tested.zs
    said = [*(("latents", z) for z in zs), ("reconstructions", torch.from_numpy(context.decoded(zs)))]
    ill = [what for what, values in said
           if not torch.isfinite(values).all()]  # fmt: skip
    if ill:
        return Finding(
            "weights", False, measured, f"all {count:,} are finite, but the {ill[0]} of test items are not",
            "look for a logarithm or a division in the family or net that has no floor",
        )  # fmt: skip
    return Finding("weights", True, measured, f"all {count:,} are finite, and what comes of them")


@rung(2, "supports")
def supports(context: Context) -> Finding:
    """The data lie where the likelihood lives, and draws from the posterior where the prior lives."""
    vae, family = context.vae, context.vae.likelihood.family
    try:
        check_support("of the model", family, context.schema)
    except SpecError as error:
        return _outside({}, str(error), "assemble the model with a likelihood that fits the data")
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
        bad = ~torch.isfinite(log_px)  # of a joint distribution, a whole item
        impossible += int((bad.reshape(*bad.shape, *[1] * (x.dim() - bad.dim())) & seen).sum())
    measured: dict[str, float] = {"values": total, "outside": outside, "impossible": impossible}
    if outside or impossible:
        what = f"{outside:,} of {total:,} values of the data lie outside the support of the likelihood"
        if not outside:
            what = f"the likelihood gives {impossible:,} of {total:,} values of the data no finite density"
        return _outside(measured, f"{what} ({type(family).__name__})", "use a likelihood that fits the data")
    prior = getattr(vae.latents, "prior", None)
    if prior is None:
        return Finding("supports", True, measured, f"all {total:,} values of the data are possible; no prior")
    z = context.tested.zs[0]  # below the top of a hierarchy, posterior and prior are members of one family
    away = float((~prior.support.check(z)).float().mean())
    lead = prior(len(z), {}, vae.latents.posterior).log_prob(z)  # type: ignore[operator,attr-defined]
    measured |= {"latents outside": away}
    if away or not torch.isfinite(lead).all():
        lives = f"{vae.latents.posterior.family.support}, the prior on {prior.support}"  # type: ignore[union-attr,attr-defined]
        return _outside(
            measured, f"draws of the posterior leave the support of the prior: the posterior lives on {lives}",
            "give prior and posterior the same support",
        )  # fmt: skip
    return Finding("supports", True, measured, f"all {total:,} values of the data, and all latents, are possible")


def _outside(measured: dict[str, float], reason: str, remedy: str) -> Finding:
    return Finding("supports", False, measured, reason, remedy)


def _explained(context: Context) -> Iterator[tuple[Tensor, Tensor, Distribution]]:
    """The test items, which of their values are observed, and the distribution that should explain them."""
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


@rung(3, "neighbours")
def neighbours(context: Context) -> Finding:
    """An item's latents and density are the same alone and among others: no batch statistics."""
    remedy = "replace it by a normalisation of each item (LayerNorm, GroupNorm) or leave it out, and fit again"
    found = batch_norms(context.vae)
    if found:
        told = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        return Finding(
            "neighbours", False, {"batch norms": len(found)},
            f"batch normalisation in {told}: an item's density would depend on its neighbours or on the training "
            "set's statistics",
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
            f"alone, an item's numbers differ by {worst:.1g} of their size from those it has in a batch: "
            "something in the nets mixes items",
            remedy,
        )  # fmt: skip
    return Finding("neighbours", True, measured, f"an item's numbers are the same alone and in a batch ({worst:.0e})")


def _numbers(context: Context, batch) -> list[Tensor]:  # type: ignore[no-untyped-def]
    """The latents, the density given them and the reconstruction of each item."""
    with torch.no_grad():
        zs = [level.z for level in context.vae.latents.walk(centres, batch, context=batch.context).levels]
        terms = context.vae(batch, draw=replay(zs))
        d = context.vae.explain(context.vae.latents.walk(replay(zs), n=len(batch.x)).h)
        return [*zs, terms.log_px, mean(d)]
