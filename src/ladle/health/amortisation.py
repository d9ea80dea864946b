"""What is lost because one encoder speaks for all items."""

from __future__ import annotations

from ladle.health.findings import Context, Finding, rung
from ladle.refine import amortisation_gap
from ladle.tasks.run import at_once

ITEMS, STEPS = 32, 100  # a second or two for small nets


@rung(6, "amortisation")
def amortisation(context: Context) -> Finding:
    """How much better the bound is with a posterior of each item's own than with the encoder's.

    It informs and is never ill: a gap costs tightness of the bound, not the model's density, and no threshold tells
    the two apart. Healthy small models have gaps of 0.7 nats (binary digits, KL 1.1), 6 (digits, KL 11) and 24 (a table
    of 569 rows, KL 14); with every posterior made far too narrow they have 24, 28 and 30.

    Reference:
        Cremer, Li, Duvenaud: "Inference Suboptimality in Variational Autoencoders", 2018.
    """
    context.need_prior()
    few = min(ITEMS, at_once(context.model), len(context.test))
    gap = amortisation_gap(context.model, context.test, items=few, steps=STEPS, seed=context.seed)
    return Finding(
        "amortisation", True, {"gap": gap.nats, "se": gap.se, "items": few},
        f"a posterior of each item's own raises the bound by {gap.nats:.3g} ± {gap.se:.2g} nats ({few} items, "
        f"{STEPS} steps)",
    )  # fmt: skip
