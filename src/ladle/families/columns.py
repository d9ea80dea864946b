"""A family for the rows of a table, with an element-wise family for each column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from ladle.families.family import (
    Family,
    centre,
    checked_temperature,
    draw,
    mean,
    quantile,
    separate,
    standard,
    tempered,
)
from ladle.shapes import Size
from ladle.spec import SpecError, part


class Places:
    """A partition of the columns of a row into groups.

    Args:
        groups: the column indices of each group; together they are 0 .. D - 1.

    Raises:
        SpecError: if the groups are not a partition of 0 .. D - 1.
    """

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        self.groups = tuple(tuple(group) for group in groups)
        flat = [column for group in self.groups for column in group]
        if sorted(flat) != list(range(len(flat))) or not all(self.groups):
            raise SpecError(f"the groups of columns must contain every column 0 .. D - 1 once, got {str(groups)[:200]}")
        self.count = len(flat)
        self._index = [torch.tensor(group) for group in self.groups]
        self._order = torch.tensor(flat).argsort()

    def __eq__(self, other: object) -> bool:
        """Whether the groups are the same."""
        return isinstance(other, Places) and other.groups == self.groups

    def __hash__(self) -> int:
        """A hash of the groups."""
        return hash(self.groups)

    def split(self, value: Tensor) -> list[Tensor]:
        """The columns of each group: ``(*lead, D)`` to ``(*lead, n)`` each."""
        return [value.index_select(-1, index.to(value.device)) for index in self._index]

    def join(self, values: Sequence[Tensor]) -> Tensor:
        """The inverse of :meth:`split`; different types are promoted to a common one."""
        kind = values[0].dtype
        for value in values[1:]:
            kind = torch.promote_types(kind, value.dtype)
        joined = torch.cat([value.to(kind) for value in values], -1)
        return joined.index_select(-1, self._order.to(joined.device))


class ColumnSupport(constraints.Constraint):
    """The support of rows whose columns have different supports.

    Args:
        supports: the support of each group of columns.
        places: the groups.
    """

    def __init__(self, supports: Sequence[constraints.Constraint], places: Places) -> None:
        self.supports, self.places = tuple(supports), places
        super().__init__()

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]
        """Whether every column is discrete."""
        return all(support.is_discrete for support in self.supports)

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is in the support of its column: ``(*lead, D) -> (*lead, D)``."""
        return self.places.join([s.check(v) for s, v in zip(self.supports, self.places.split(value), strict=True)])

    def by_column(self) -> list[constraints.Constraint]:
        """The support of every column."""
        pairs = zip(self.supports, self.places.groups, strict=True)
        found = {column: support for support, group in pairs for column in group}
        return [found[column] for column in range(self.places.count)]

    def __eq__(self, other: object) -> bool:
        """Whether every column has the same support."""
        if not isinstance(other, ColumnSupport):
            return False
        return self.places == other.places and self.supports == other.supports

    def __hash__(self) -> int:
        """A hash of the groups of columns."""
        return hash(self.places)

    def __repr__(self) -> str:
        """The supports, group by group."""
        return f"Columns({', '.join(map(str, self.supports))})"


class Columns(td.Distribution):
    """Independent columns of different families, as an element-wise distribution.

    The batch shape is ``(*lead, D)``, the event shape ``()``.

    Args:
        members: an element-wise distribution over ``(*lead, n)`` for each group of columns.
        places: the groups of columns.

    >>> places = Places([[0, 2], [1]])
    >>> members = [td.Normal(torch.zeros(4, 2), 1.0), td.Bernoulli(logits=torch.zeros(4, 1))]
    >>> Columns(members, places).log_prob(torch.tensor([0.0, 1.0, 0.0]))[0]
    tensor([-0.9189, -0.6931, -0.9189])
    """

    arg_constraints: dict = {}

    def __init__(self, members: Sequence[td.Distribution], places: Places) -> None:
        self.members, self.places = tuple(members), places
        lead = members[0].batch_shape[:-1]
        super().__init__(torch.Size((*lead, places.count)), torch.Size(), validate_args=False)

    @property
    def support(self) -> ColumnSupport:  # type: ignore[override]
        """The supports of the columns."""
        return ColumnSupport([d.support for d in self.members], self.places)  # type: ignore[misc]

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether every column is reparameterised."""
        return all(d.has_rsample for d in self.members)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Columns:
        """See :meth:`torch.distributions.Distribution.expand`."""
        lead = tuple(batch_shape)[:-1]
        return Columns([d.expand(torch.Size((*lead, d.batch_shape[-1]))) for d in self.members], self.places)

    def log_prob(self, value: Tensor) -> Tensor:
        """The element-wise log-probabilities, ``(*S, *lead, D) -> (*S, *lead, D)``."""
        return self._each(lambda d, v: d.log_prob(v), value)

    def cdf(self, value: Tensor) -> Tensor:
        """The cumulative distribution function of every column, if all have one."""
        return self._each(lambda d, v: d.cdf(v), value)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Samples, ``(*sample_shape, *lead, D)``."""
        return self.places.join([d.sample(torch.Size(sample_shape)) for d in self.members])

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Reparameterised samples, ``(*sample_shape, *lead, D)``, if all columns have them."""
        return self.places.join([d.rsample(torch.Size(sample_shape)) for d in self.members])

    def _each(self, of: Callable[[td.Distribution, Tensor], Tensor], value: Tensor) -> Tensor:
        parts = self.places.split(value.expand(*value.shape[:-1], self.places.count))
        return self.places.join([of(d, part_) for d, part_ in zip(self.members, parts, strict=True)])


@part("family", "columns")
class ColumnsFamily(Family):
    """An element-wise family for each column of a table, such as normal for real columns and negative binomial for
    counts.

    ::

        raw of group 1 --family 1--> columns 0, 2, 3
        raw of group 2 --family 2--> columns 1            together an element-wise distribution over (*lead, D)

    Raw zeros give the standard member of every column. The family is meant for likelihoods; it can also be a posterior
    in training if every column has a gradient estimator.

    Args:
        families: an element-wise family for each group of columns.
        groups: the column indices of each group; together they contain every column 0 .. D - 1 once.

    Raises:
        SpecError: if the groups are not a partition of the columns, or a family is not element-wise.

    Reference:
        Nazabal, Olmos, Ghahramani, Valera: "Handling Incomplete Heterogeneous Data using VAEs", 2020.

    >>> from ladle.spec import build
    >>> families = [build({"part": "family/normal"}), build({"part": "family/categorical", "classes": 3})]
    >>> family = ColumnsFamily(families, groups=[[0, 2], [1]])
    >>> family.raw((3,))
    ((2,), (2,), (1, 3))
    >>> family(*torch.zeros(2, 5, 2), torch.zeros(5, 1, 3)).log_prob(torch.tensor([0.0, 2.0, 0.0]))[0]
    tensor([-0.9189, -1.0986, -0.9189])
    """

    def __init__(self, families: list[Family], groups: list[list[int]]) -> None:
        super().__init__()
        if len(families) != len(groups) or not groups:
            raise SpecError(
                f"there must be a family for each group of columns, got {len(families)} families, {len(groups)} groups"
            )
        self.families, self.places = torch.nn.ModuleList(families), Places(groups)
        for family, group in zip(families, groups, strict=True):
            if standard(family, (len(group),)).event_shape:
                raise SpecError(
                    f"the columns of a table need element-wise families, but {type(family).__name__} is joint over its "
                    "event; families that fit: normal, bernoulli, categorical, negative_binomial"
                )

    @property
    def support(self) -> ColumnSupport:  # type: ignore[override]
        """The supports of the columns."""
        return ColumnSupport([family.support for family in self.families], self.places)  # type: ignore[misc]

    def raw(self, event: Size) -> tuple[Size, ...]:
        """The sizes of the raw parameters of all groups, in order."""
        if tuple(event) != (self.places.count,):
            raise ValueError(f"a family of {self.places.count} columns needs events of that size, got {tuple(event)}")
        each = zip(self.families, self.places.groups, strict=True)
        return tuple(size for family, group in each for size in family.raw((len(group),)))  # type: ignore[operator]

    def forward(self, *raw: Tensor) -> Columns:
        """The element-wise distribution over ``(*lead, D)``."""
        rest, members = list(raw), []
        for family, group in zip(self.families, self.places.groups, strict=True):
            count = len(family.raw((len(group),)))  # type: ignore[operator]
            members.append(family(*rest[:count]))
            rest = rest[count:]
        return Columns(members, self.places)


@centre.register
def _(d: Columns) -> Tensor:
    return d.places.join([centre(member) for member in d.members])


@mean.register
def _(d: Columns) -> Tensor:
    return d.places.join([mean(member) for member in d.members])


@tempered.register
def _(d: Columns, t: float) -> Columns:
    return Columns([tempered(member, checked_temperature(t)) for member in d.members], d.places)


@quantile.register
def _(d: Columns, u: Tensor) -> Tensor:
    parts = d.places.split(u.expand(*u.shape[:-1], d.places.count))
    return d.places.join([quantile(member, part_) for member, part_ in zip(d.members, parts, strict=True)])


@draw.register
def _(d: Columns) -> Tensor:
    return d.places.join([draw(member) for member in d.members])


@separate.register
def _(d: Columns) -> list[tuple[td.Distribution, Any]]:
    return [(piece, own or member.support) for member in d.members for piece, own in separate(member)]  # type: ignore[misc]


@td.register_kl(Columns, Columns)
def _kl(q: Columns, p: Columns) -> Tensor:
    if q.places != p.places:
        raise NotImplementedError
    return q.places.join([td.kl_divergence(a, b) for a, b in zip(q.members, p.members, strict=True)])
