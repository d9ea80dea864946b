"""Several levels of latents, inferred from the top down, for the ladder VAE and deep spatial hierarchies."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn import functional as F

from ladle.data import Batch
from ladle.families import Family
from ladle.families.real import LocationScale
from ladle.model.conditional import Conditional, joint_context
from ladle.model.latents.latents import Draw, Latents, Trace, level
from ladle.model.latents.levels import Rung, maps, parse
from ladle.model.priors import Prior
from ladle.nets import Standardise
from ladle.nets.residual import Pointwise, Pyramid, Residual, mixing
from ladle.shapes import Size, fold, numel, unfold, wide
from ladle.spec import SpecError, part, to_spec

NARROW = -2.0  # the initial raw scale of a posterior


def halves(head: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The two raw parameters that a head computes, at least float32: ``(N, C, H, W) -> 2 x (N, size, H, W)``."""
    first, second = wide(head(F.relu(x))).chunk(2, 1)
    return first, second


def telling(width: int, size: int) -> Pointwise:
    """The head of a posterior, from ``width`` channels to the raw parameters of ``size`` latents. Initially, locations
    vary between items by about one standard deviation of the prior, and the scale is a third of the prior's. If a
    posterior started as its prior, z would carry no information and the later levels would learn to ignore it: such a
    ladder needs about twice as long to train."""
    head = Pointwise(width, 2 * size, gain=0.0)
    nn.init.normal_(head.weight[:size], std=math.sqrt(2 / width))  # the features have passed a ReLU
    nn.init.constant_(head.bias[size:], NARROW)
    return head


def unreduced(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """Disable autocast, because distributions are not computed in half precision. The meta device has no autocast."""
    return torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False)


class Top(Conditional):
    """q(z_1|x), and the features of x that are shared by all levels.

    ::

        x --pyramid--> features, one map for every side --head of the smallest--> q(z_1|x)

    Args:
        pyramid: the network that computes the features.
        family: the family of z.
        rung: the top level. Its z is one vector over all its pixels.
        inputs: the shape of the input.
        seen: the shape of the input as the pyramid reads it: a map, which may be a single pixel.
        width: the number of channels of the features.
    """

    def __init__(
        self, pyramid: Pyramid, family: LocationScale, rung: Rung, inputs: Size, seen: Size, width: int
    ) -> None:
        super().__init__()
        self.pyramid, self.family, self.event = pyramid, family, (numel(rung),)
        self.inputs, self.seen = inputs, seen
        self.head = telling(width, rung.size)

    def features(self, given: Tensor) -> list[Tensor]:
        """``(B, *inputs)`` to ``(B, width, h, w)`` each, the smallest map first."""
        return self.pyramid(given.reshape(-1, *self.seen))[::-1]

    def read(self, features: Tensor) -> Distribution:
        """The distribution, from the smallest map: ``(B, width, h, w)`` to one over ``(B, D)``."""
        loc, scale = halves(self.head, features)
        with unreduced(features):
            return self.family(loc.flatten(1), scale.flatten(1))

    def forward(self, given: Tensor, context: Mapping[str, Tensor]) -> Distribution:
        """``(B, *inputs)`` to a distribution over ``(B, D)``."""
        return self.read(self.features(given)[0])


class Below(nn.Module):
    """One level below the top. It adds its z to the state, which passes the drawn latents on to the next levels.

    ::

        state --grow--> state ------------+--prior--> p(z|above) --(m, s)--+
                                          |                                v
        features -------------------------+--step--> (d, e) --> q(z|above, x) at m + s d, with scale s e
                                          |                                |
                                          +<------- project <------ z <----+
                                          +--residual--> state

    The head of the prior is initialised with zeros, so that p is the standard member. For the posterior, see
    :func:`telling`.

    Args:
        rung: the size of the map, and the number of latents per pixel.
        doublings: the number of doublings from the state of the level above to this map.
        width: the number of channels of the state and of the features.
        family: the family of z.
        depth: the number of levels of the ladder.
    """

    def __init__(self, rung: Rung, doublings: int, width: int, family: LocationScale, depth: int) -> None:
        super().__init__()
        self.rung, self.family, self.doublings = rung, family, doublings
        if doublings:
            self.place = nn.Parameter(torch.zeros(width, rung.height, rung.width))
        self.prior = nn.Sequential(
            mixing(width, width, rung.side), nn.ReLU(), Pointwise(width, 2 * rung.size, gain=0.0)
        )
        self.of_state, self.of_features = (mixing(width, width, rung.side, math.sqrt(0.5)) for _ in range(2))
        self.step = telling(width, rung.size)
        self.project = Pointwise(rung.size, width, 1 / math.sqrt(depth))
        self.residual = Residual(width, rung.side, depth)

    def grow(self, state: Tensor) -> Tensor:
        """The state upsampled to this level's map (nearest neighbour): ``(N, width, h, w) -> (N, width, H, W)``."""
        if not self.doublings:
            return state
        grown = F.interpolate(state, scale_factor=float(2**self.doublings), mode="nearest")
        return grown[..., : self.rung.height, : self.rung.width] + self.place

    def p(self, state: Tensor, lead: Size) -> Distribution:
        """p(z|above), over ``(*lead, size, H, W)``."""
        raw = halves(self.prior, state)
        with unreduced(state):
            return self.family(*(unfold(r, lead) for r in raw))

    def q(self, p: Distribution, state: Tensor, features: Tensor, lead: Size) -> Distribution:
        """q(z|above, x), relative to p; ``features``, ``(B, width, H, W)``, are shared by all samples of an item."""
        read = self.of_features(F.relu(features))
        known = self.of_state(F.relu(state)).unflatten(0, (-1, len(read)))
        loc, scale = halves(self.step, (known + read).flatten(0, 1))
        with unreduced(state):
            scale = self.family.scale(scale)
            return self.family.member(
                p.loc + p.scale * unfold(loc, lead),  # type: ignore[attr-defined]
                p.scale * unfold(scale, lead),  # type: ignore[attr-defined]
            )

    def add(self, state: Tensor, z: Tensor) -> Tensor:
        """The state after adding z, ``(N, size, H, W)``."""
        return self.residual(state + self.project(z))


@part("latents", "ladder")
class Ladder(Latents):
    """Levels of latents on maps from the smallest, or one pixel, to the largest, each conditioned on the ones above.

    ::

        x --reads--> --pyramid--> features ----------+-----------------+
                                      |              v                 v
                              q(z_1|x), p(z_1)   q(z_2|z_1,x)     q(z_3|z_1,z_2,x) ...
                                      v              v                 v
                                     z_1 --state--> z_2 --state-----> z_3 --state--> h

    ``log p(z) = sum_l log p(z_l | z_1 .. z_(l-1))``, and q likewise: inference has the same order as generation, and
    below the top every posterior is parameterised relative to its prior, see :class:`Below`. The walk is the same
    whether z is inferred, generated or given. ``h`` is the state after the last level, a map of ``width`` channels.

    If all levels are at side 1, all layers are dense, and an item of any shape is read as one vector.

    Args:
        reads: computes the encoder's input from x.
        inputs: the shape of the encoder's input.
        blocks: the levels from the top down, such as ``1:16, 4x2, 7x3``; see :mod:`ladle.model.latents.levels`.
        width: the number of channels of the features and of the state.
        size: the number of latents per pixel for levels without a size in ``blocks``.
        posterior: the family of every z, which must be a location-scale family.
        prior: p(z_1), over the top level as one vector.

    Attributes:
        features: the shape of ``h``.

    Raises:
        SpecError: for blocks that are not valid, or a family that is not a location-scale family.

    Reference:
        Sønderby, Raiko, Maaløe, Sønderby, Winther: "Ladder Variational Autoencoders", 2016.
        Vahdat, Kautz: "NVAE: A Deep Hierarchical Variational Autoencoder", 2020 (posteriors as steps from priors).
        Child: "Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images", 2021.
    """

    def __init__(
        self,
        reads: Standardise,
        inputs: list[int],
        blocks: str,
        width: int,
        size: int,
        posterior: Family,
        prior: Prior,
    ) -> None:
        super().__init__()
        if not isinstance(posterior, LocationScale) or posterior.shared_scale:
            fitting = "normal, laplace, logistic, student_t, without a shared scale"
            raise SpecError(
                f"the posteriors of a ladder are relative to their priors, which needs a location-scale family, "
                f"got {type(posterior).__name__}; families that fit: {fitting}"
            )
        if width < 1:
            raise SpecError(f"a ladder needs a width of at least 1, got {width}")
        rungs = parse(blocks, tuple(inputs), size)
        top, *below = rungs
        self.events = ((numel(top),), *(tuple(rung) for rung in below))
        self.rung, self.reads, self.prior = top, reads, prior
        self.context = joint_context(prior)
        self.features = (width, rungs[-1].height, rungs[-1].width)

        sizes, seen = maps(inputs), tuple(inputs)
        if rungs[-1].side == 1:
            sizes, seen = [(1, 1)], (numel(inputs), 1, 1)
        sizes = sizes[: sizes.index((top.height, top.width)) + 1]
        counts = [sum((rung.height, rung.width) == of for rung in rungs) for of in sizes]
        pyramid = Pyramid(seen[0], sizes, counts, width)
        self.posterior = Top(pyramid, posterior, top, tuple(inputs), seen, width)

        self.place = nn.Parameter(torch.zeros(width, top.height, top.width))
        self.enter = Pointwise(top.size, width, 1.0)
        self.residual = Residual(width, top.side, len(rungs))
        levels = [sizes.index((rung.height, rung.width)) for rung in rungs]
        self.below = nn.ModuleList(
            Below(rung, above - here, width, posterior, len(rungs))
            for rung, above, here in zip(below, levels, levels[1:], strict=False)
        )

    def describe(self) -> str:
        """See :meth:`Latents.describe`."""
        return f"{to_spec(self.posterior.family)['part']} on the levels {to_spec(self)['blocks']}"

    def walk(self, draw: Draw, batch: Batch, samples: Size = ()) -> Trace:
        """See :meth:`Latents.walk`."""
        q: Distribution | None = None
        features: list[Tensor] = []
        if not batch.blank:
            features = self.posterior.features(self.reads(batch.x, batch.observed))
            q = self.posterior.read(features[0])
            q = q.expand(samples + tuple(q.batch_shape)) if samples else q
        p = self.prior(len(batch.x), batch.context, self.posterior)
        z = draw(0, q, p)
        levels = [level(z, q, p, self.events[0])]

        flat, lead = fold(z, 1)
        state = self.residual(self.place + self.enter(flat.unflatten(1, tuple(self.rung))))
        for i, below in enumerate(self.below, start=1):
            state = below.grow(state)  # type: ignore[operator]
            if below.doublings and features:
                features = features[1:]
            p = below.p(state, lead)  # type: ignore[operator]
            q = below.q(p, state, features[0], lead) if features else None  # type: ignore[operator]
            z = draw(i, q, p)
            levels.append(level(z, q, p, self.events[i]))
            state = below.add(state, fold(z, 3)[0])  # type: ignore[operator]
        return Trace(tuple(levels), unfold(state, lead))
