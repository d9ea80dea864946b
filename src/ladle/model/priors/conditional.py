"""A class-conditional prior: for each label a learned member, or mixture of members, of a family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ladle.families import Family
from ladle.families.mixture import Mixture, MixtureFamily
from ladle.model.conditional import Conditional
from ladle.model.priors.mixture import SPREAD
from ladle.model.priors.prior import Prior
from ladle.spec import SpecError, part


class LabelledMixture(Mixture):
    """A mixture whose log-probability carries the gradient of log p(label) as well.

    Args:
        logits: as for :class:`ladle.families.mixture.Mixture`.
        components: likewise.
        log_label: log p(label) of each item, ``(*lead,)``, zero where the label is unknown. Its value is subtracted
            again, so the density is that of the mixture.
    """

    def __init__(self, logits: Tensor, components: Distribution, log_label: Tensor) -> None:
        super().__init__(logits, components)
        self.log_label = log_label

    def expand(self, batch_shape: Any, _instance: Any = None) -> LabelledMixture:
        """See :meth:`torch.distributions.Distribution.expand`."""
        wide = super().expand(batch_shape)
        return LabelledMixture(wide.log_weights, wide.components, self.log_label.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """``(*S, *lead, *event) -> (*S, *lead)``."""
        return super().log_prob(value) + (self.log_label - self.log_label.detach())


@part("prior", "conditional")
class ClassConditional(Prior):
    """``p(z | label) = sum_m w_(m|label) p_(label, m)(z)``: learned weights and learned members of a family.

    ::

        label = c      the mixture of the members of class c
        label = -1     p(z) = sum_c pi_c p(z | c), the exact marginal over the labels

    The labels of a batch without labels are unknown. The class shares pi are learned from the training labels: the
    log-probability of a labelled item carries the gradient of ``log pi_label``, while its value stays
    ``log p(z | label)``. The bound is therefore on log p(x | label) for a labelled item, and on
    log p(x) for an unlabelled one.

    The first raw parameter of the members (their location if the family has one) is initialised with noise, as in
    ``prior/mixture``, because equal members would stay equal. Mixtures of element-wise members have exact
    one-dimensional conditionals, so the prior can be used for compression.

    Args:
        family: the family of the members.
        event: the shape of one z.
        classes: the number of labels, C.
        components: the number of members of each class, M.

    Raises:
        SpecError: if there are fewer than 1 class or component.

    Reference:
        Kingma, Rezende, Mohamed, Welling: "Semi-supervised Learning with Deep Generative Models", 2014 (labels that are
        known, or summed over).

    >>> from ladle.spec import build
    >>> prior = ClassConditional(build({"part": "family/normal"}), event=(2,), classes=3, components=2)
    >>> z = torch.zeros(4, 2)
    >>> each = torch.stack([prior(4, {"label": torch.full((4,), c)}).log_prob(z) for c in range(3)])
    >>> marginal = (each + prior.log_shares()[:, None]).logsumexp(0)
    >>> bool(torch.allclose(prior(4, {}).log_prob(z), marginal, atol=1e-6))
    True
    """

    def __init__(self, family: Family, event: list[int], classes: int, components: int = 1) -> None:
        super().__init__()
        if classes < 1 or components < 1:
            raise SpecError(
                f"a class-conditional prior needs at least 1 class and 1 component for each, got {classes} classes and "
                f"{components} components"
            )
        self.mixture = MixtureFamily(family, classes * components)
        self.event, self.support, self.classes = tuple(event), family.support, classes
        self.context = {"label": classes}
        self.shares = nn.Parameter(torch.zeros(classes))
        self.weights = nn.Parameter(torch.zeros(classes, components))
        self.raw = nn.ParameterList(torch.zeros(size) for size in self.mixture.raw(self.event)[1:])
        with torch.no_grad():
            noise = SPREAD * torch.randn_like(self.raw[0])
            self.raw[0].copy_(noise - noise.mean(0))

    def log_shares(self) -> Tensor:
        """log p(label), ``(C,)``."""
        return self.shares.log_softmax(0)

    def log_joint(self) -> Tensor:
        """log p(label, member), ``(C * M,)``: the log weights of the marginal mixture."""
        return (self.log_shares()[:, None] + self.weights.log_softmax(1)).flatten()

    def forward(self, n: int, context: Mapping[str, Tensor], posterior: Conditional | None = None) -> Distribution:
        """A joint distribution: batch ``(n,)``, event ``(*event,)``.

        Args:
            n: how many.
            context: ``label``, ``(n,)`` int64 with -1 for unknown, or nothing.
            posterior: not needed.

        Raises:
            ValueError: for labels of another shape, or outside of -1 .. C - 1.
        """
        joint = self.log_joint()
        components = self.mixture.family(*(raw.unsqueeze(0) for raw in self.raw))
        components = components.expand(torch.Size((n, *components.batch_shape[1:])))
        if "label" not in context:
            return Mixture(joint.expand(n, -1), components)
        label = self._checked(n, context["label"])
        of_class = torch.arange(self.classes, device=label.device).repeat_interleave(self.weights.shape[1])
        possible = (label[:, None] == of_class) | (label[:, None] < 0)
        log_label = torch.where(label < 0, 0.0, self.log_shares()[label.clamp(min=0)])
        return LabelledMixture(joint.expand(n, -1).masked_fill(~possible, -torch.inf), components, log_label)

    def _checked(self, n: int, label: Tensor) -> Tensor:
        if label.shape != (n,) or label.is_floating_point():
            raise ValueError(f"labels must be {n} whole numbers, got {label.dtype} of shape {tuple(label.shape)}")
        if label.device.type == "cpu" and n and not -1 <= int(label.min()) <= int(label.max()) < self.classes:
            raise ValueError(
                f"labels must lie in -1..{self.classes - 1}, where -1 is unknown, got {int(label.min())}.."
                f"{int(label.max())}"
            )
        return label
