"""The stack: pushed symbols are popped again, with and without machine code, and their size is their information."""

from __future__ import annotations

import numpy as np
import pytest

from ladle.coding.ans import loops_numpy
from ladle.coding.ans.bins import Bins
from ladle.coding.ans.fixed_point import FRACTION, PRECISION, Curve, curve_values, logistic, normal
from ladle.coding.ans.stack import Stack, loops
from ladle.coding.ans.streams import Streams
from ladle.coding.errors import Desynchronised

CURVES = {"logistic": (logistic, 16, 2048), "normal": (normal, 8, 2048)}


def random_bins(rng, shape, n, components=3, name="logistic") -> Bins:
    """Random distributions over n bins: narrow and wide, also with locations outside of the range."""
    function, reach, entries = CURVES[name]
    unit = 64  # units between two edges
    shift = 8
    per = (entries << FRACTION << shift) / (2 * reach) / unit
    loc = rng.integers(-n * unit // 4, 5 * n * unit // 4, (*shape, components))
    rate = (per / np.exp(rng.uniform(np.log(0.05), np.log(n), (*shape, components)))).astype(np.int64)
    share = rng.dirichlet(np.ones(components), shape)
    weight = np.floor(share * ((1 << PRECISION) - n)).astype(np.int64)
    weight[..., 0] += (1 << PRECISION) - n - weight.sum(-1)
    edges = (np.arange(1, n) * unit) - unit // 2
    return Bins(edges, loc, rate, weight, Curve(curve_values(function, reach, entries), shift))


@pytest.fixture(params=["numpy", "numba"])
def plain(request) -> bool:
    if request.param == "numba":
        pytest.importorskip("numba")
    return request.param == "numpy"


@pytest.mark.parametrize("lanes", [1, 3, 64])
@pytest.mark.parametrize("name", CURVES)
def test_what_is_pushed_is_popped(plain, lanes, name):
    rng = np.random.default_rng(0)
    stack = Stack(lanes, reserve=1 << 12, numpy=plain)
    calls = [
        random_bins(rng, shape, n, name=name) for shape, n in [((50,), 2), ((7, 11), 256), ((), 5), ((300,), 4096)]
    ]
    drawn = [stack.pop_bins(bins) for bins in calls]
    data = [rng.integers(0, len(bins.edges) + 1, bins.shape) for bins in calls]
    for bins, x in zip(calls, data, strict=True):
        stack.push_bins(x, bins)
    even = rng.integers(0, 1 << 12, (4, 5))
    stack.push_uniform(even, 12)
    back = Stack.from_bytes(stack.to_bytes(), numpy=plain)
    assert (back.pop_uniform(even.shape, 12) == even).all()
    for bins, x in zip(calls[::-1], data[::-1], strict=True):
        assert (back.pop_bins(bins) == x).all()
    for bins, z in zip(calls[::-1], drawn[::-1], strict=True):
        back.push_bins(z, bins)
    back.finish()


def test_machine_code_gives_the_same_bits():
    pytest.importorskip("numba")
    assert loops().__name__.endswith("numba")
    rng = np.random.default_rng(1)
    written = []
    for numpy in (True, False):
        rng = np.random.default_rng(1)
        stack = Stack(lanes=5, reserve=1 << 10, numpy=numpy)
        for name in CURVES:
            z = stack.pop_bins(random_bins(rng, (40, 3), 1024, name=name))
            stack.push_bins(z // 4, random_bins(rng, (40, 3), 256, name=name))
            rows = np.cumsum(rng.multinomial((1 << PRECISION) - 6, [0.2] * 5, 30) + 1, 1)
            rows = np.concatenate([0 * rows[:, :1], rows + 0], 1)
            rows[:, -1] = 1 << PRECISION
            stack.push_rows(stack.pop_rows(rows), rows)
            stack.push_uniform(stack.pop_uniform((9,), 7), 7)
        written.append(stack.to_bytes())
    assert written[0] == written[1]


def test_a_symbol_that_is_certain_costs_nothing():
    """It has all slots, in both versions of the loops and in streams: 2 ** 24 << 39 does not fit a signed number."""
    pytest.importorskip("numba")
    rows = np.tile([[0, 1 << PRECISION], [0, 1 << PRECISION]], (50, 1))
    written = []
    for numpy in (True, False):
        stack = Stack(lanes=3, reserve=9, numpy=numpy)
        before = stack.to_bytes()
        stack.push_rows(np.zeros(100, np.int64), rows)
        written.append(stack.to_bytes())
        assert (stack.pop_rows(rows) == 0).all()
        stack.finish()
    assert written == [before, before]
    streams = Streams(100)
    streams.push_rows(np.zeros(100, np.int64), rows)
    streams.finish()


@pytest.mark.parametrize("name", CURVES)
def test_bins_are_the_distribution_and_sum_to_one(name):
    """Counts against the mixture in float64: within the table's error of 2e-4, with a sum of exactly one."""
    rng = np.random.default_rng(2)
    bins = random_bins(rng, (200,), 64, name=name)
    counts = bins.counts()
    assert (counts >= 1).all()
    assert (counts.sum(-1) == 1 << PRECISION).all()
    function, reach, entries = CURVES[name]
    per = (entries << FRACTION << bins.curve.shift) / (2 * reach)
    at = (bins.edges[:, None, None] - bins.loc) * bins.rate / per
    below = (function(at.reshape(-1)).reshape(at.shape) * bins.weight).sum(-1) / (1 << PRECISION)
    true = np.diff(below, axis=0, prepend=0, append=1 - 64 / (1 << PRECISION)).T
    assert np.abs(counts / (1 << PRECISION) - true).max() < 2e-4


def test_the_bits_are_those_of_the_entropy():
    """Data drawn from the distributions, by popping, take at most a thousandth more than their information."""
    rng = np.random.default_rng(3)
    source, bins = Stack(1, reserve=1 << 16), random_bins(rng, (50_000,), 256)
    x = source.pop_bins(bins)
    stack = Stack(4, reserve=0)
    stack.push_bins(x, bins)
    counts = np.take_along_axis(bins.counts(), x[:, None], 1)
    information = float(np.log2((1 << PRECISION) / counts).sum())
    assert len(stack.to_bytes()) * 8 - information < 1e-3 * information + 64 * 4


def test_a_stack_that_was_cut_or_is_read_with_other_numbers_does_not_finish():
    """Not all damage is detected here: neighbouring symbols of one slot may be exchanged. Checksums detect that."""
    rng = np.random.default_rng(4)
    bins = random_bins(rng, (500,), 256)
    x = Stack(1, reserve=1 << 12).pop_bins(bins)
    stack = Stack(2, reserve=0)
    stack.push_bins(x, bins)
    data = stack.to_bytes()

    def read(data: bytes, bins: Bins) -> None:
        back = Stack.from_bytes(data)
        back.pop_bins(bins)
        back.finish()

    read(data, bins)
    for length in range(0, len(data), 7):
        with pytest.raises(Desynchronised):
            read(data[:length], bins)
    masses = np.stack(loops_numpy.masses(x, *bins.flat))
    for i in range(20):
        loc = bins.loc.copy()
        loc[25 * i] += 1 << 10
        other = bins._replace(loc=loc)
        if (np.stack(loops_numpy.masses(x, *other.flat)) != masses).any():
            with pytest.raises(Desynchronised):
                read(data, other)


@pytest.mark.parametrize("items", [1, 57])
def test_streams_stand_by_themselves(items):
    rng = np.random.default_rng(5)
    calls = [random_bins(rng, (items, *shape), n) for shape, n in [((30,), 256), ((), 2), ((4, 3), 4096)]]
    data = [rng.integers(0, len(bins.edges) + 1, bins.shape) for bins in calls]
    rows = np.sort(rng.integers(1, 1 << PRECISION, (items, 6)), 1) + np.arange(6)
    rows[:, 0], rows[:, -1] = 0, 1 << PRECISION
    classes = rng.integers(0, 5, items)
    streams = Streams(items)
    for bins, x in zip(calls, data, strict=True):
        streams.push_bins(x, bins)
    streams.push_rows(classes, rows)
    written = streams.to_bytes()
    for chosen in (np.arange(items), np.array([items // 2])):
        back = Streams.from_bytes([written[i] for i in chosen], 44)
        assert (back.pop_rows(rows[chosen]) == classes[chosen]).all()
        for bins, x in zip(calls[::-1], data[::-1], strict=True):
            assert (back.pop_bins(bins.mapped(lambda a, chosen=chosen: a[chosen])) == x[chosen]).all()
        back.finish()
    back.pop_bins(calls[0].mapped(lambda a: a[: len(chosen)]))
    with pytest.raises(Desynchronised):
        back.finish()


def test_every_head_is_written_so_that_it_is_read():
    heads = [1 << 31, (1 << 31) + 1, (1 << 32) - 1, 1 << 32, 1 << 47, (1 << 56) - 1, 1 << 56, (1 << 63) - 1]
    for words in (0, 1, 3):
        streams = Streams(len(heads))
        streams.heads[:], streams.tops[:] = heads, words
        streams.words[:, :words] = np.arange(words)
        back = Streams.from_bytes(streams.to_bytes(), 5)
        assert back.heads.tolist() == heads
        assert (back.tops == words).all()
        assert (back.words[:, :words] == np.arange(words)).all()


def test_one_bin_alone_is_certain(plain):
    """The places of a ladder have a single bin at the coarsest setting."""
    bins = random_bins(np.random.default_rng(7), (20, 3), 5)
    bins = bins._replace(edges=bins.edges[:0])
    stack = Stack(lanes=2, reserve=9, numpy=plain)
    before = stack.to_bytes()
    assert (stack.pop_bins(bins) == 0).all()
    stack.push_bins(np.zeros((20, 3), np.int64), bins)
    assert stack.to_bytes() == before


def test_a_draw_from_a_stream_that_is_nearly_empty_comes_back():
    """A mixture draws a component with the bits of an item even if that item has almost none."""
    rng = np.random.default_rng(6)
    items = 200
    few = np.tile([0, (1 << PRECISION) - 1, 1 << PRECISION], (items, 1))
    even = np.tile(np.arange(5) << (PRECISION - 2), (items, 1))
    flips = rng.integers(0, 2, items)
    for rows, last in ((few, 0 * flips), (even, flips), (even[:, [0, 2, 4]], flips)):
        streams = Streams(items)
        drawn = streams.pop_rows(even)
        streams.push_rows(last, rows)
        back = Streams.from_bytes(streams.to_bytes(), 2)
        assert (back.heads == streams.heads).all()
        assert (back.pop_rows(rows) == last).all()
        back.push_rows(drawn, even)
        back.finish()


def test_a_stream_longer_than_its_symbols_is_refused():
    """It is refused before memory for as many words is allocated for every item."""
    streams = Streams(2)
    rows = np.tile([0, 1, 1 << PRECISION], (2, 1))
    for _ in range(30):
        streams.push_rows(np.zeros(2, np.int64), rows)
    written = streams.to_bytes()
    Streams.from_bytes(written, 30)
    with pytest.raises(Desynchronised, match="has at most"):
        Streams.from_bytes([b"", bytes(1 << 20), *written], 1000)
    for wrong in (b"", b"\0\0\0", bytes(5), bytes(8)):
        with pytest.raises(Desynchronised):
            Streams.from_bytes([wrong], 1000)
