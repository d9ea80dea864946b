"""Schemas, splits, batches and their keyed noise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import ladle.data as data
from ladle.data import Column, DataError, Dataset, Schema, Split
from ladle.data.conform import moments
from ladle.data.dataset import deal, release
from ladle.data.noise import bits, key, shuffle

GREY = Schema("image", (1, 28, 28), "binary", binarize="dynamic", source="grey")
TABLE = Schema("table", (2,), [Column("real", "a", 0.5, 1.0), Column("real", "b", 2.0, 3.0)], label_names=("x", "y"))


def resident() -> int:
    """The memory of mapped files that is resident in this process, in bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the resident memory of a process is read from /proc")
    return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("RssFile"))


def test_pages_of_a_mapped_file_are_released(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((4000, 1, 64, 64), np.uint8))
    x = np.asarray(np.load(tmp_path / "x.npy", mmap_mode="r"))[:, :, 1:]
    split = Split(x).take(np.arange(4000)[::-1])
    before, most = resident(), 0
    for rows, _ in split.blocks():
        assert (rows == 1).all()
        most = max(most, resident() - before)
    assert x.sum() == 4000 * 63 * 64
    read = resident() - before
    release(x)
    assert most < x.nbytes / 2 < read
    assert resident() - before < x.nbytes / 10


def test_values_per_item_are_the_observed_ones():
    mask = np.array([[True, False], [True, True], [False, False]])
    split = Split(np.zeros((3, 2), np.float32), mask)
    assert split.values_per_item == 1.0
    assert split.take(np.array([0, 1])).values_per_item == 1.5
    assert np.isnan(split.take(np.array([2])).values_per_item)
    assert grey().values_per_item == 784


def grey(n: int = 64) -> Split:
    return Split(np.random.default_rng(0).integers(0, 256, (n, 1, 28, 28), dtype=np.uint8))


@pytest.mark.parametrize("schema", [GREY, TABLE, Schema("image", (3, 4, 5), [Column("real", loc=0.0, scale=1.0)])])
def test_schema_round_trip(schema):
    assert Schema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    assert len(schema.describe().splitlines()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "sound"}, {"kind": ["table"]}, {"shape": [2, 3]}, {"shape": [0]}, {"shape": [True]}, {"shape": 2},
        {"shape": [2**40]}, {"support": "bits"}, {"support": None}, {"binarize": "dynamic"}, {"names": ["a"]},
        {"names": ["a", "a"]}, {"names": [1, 2]}, {"loc": [0.0]}, {"loc": [float("nan"), 0.0]}, {"loc": ["0", "1"]},
        {"scale": [1.0, 0.0]}, {"scale": [1.0, -1.0]}, {"label_names": "xy"}, {"source": "/home/me/data"},
        {"policy": "a" * 10_000}, {"extra": 1}, {"loc": [10**400, 0]},
    ],
)  # fmt: skip
def test_schema_refuses(change):
    with pytest.raises(DataError, match="schema"):
        Schema.from_json({**TABLE.to_json(), **change})


@pytest.mark.parametrize("thing", [None, [], "x", {}])
def test_schema_refuses_other_things(thing):
    with pytest.raises(DataError, match="schema must be"):
        Schema.from_json(thing)


def test_moments_are_of_observed_values_and_constant_columns_get_scale_one():
    x = np.array([[1, 7, 0], [3, 7, 9], [99, 7, 0]], np.float32)
    observed = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 0]], bool)
    assert moments("table", Split(x, observed)) == ((2.0, 7.0, 9.0), (1.0, 1.0, 1.0))
    loc, scale = moments("image", Split(x[:, None, None]))
    assert (*loc, *scale) == pytest.approx((x.mean(), x.std()))


@pytest.mark.parametrize("n", [3, 4, 9, 10, 11, 137, 5000])
def test_deal_is_disjoint_complete_and_deterministic(n):
    dealt = deal(n, {})
    together = np.concatenate(list(dealt.values()))
    assert sorted(together) == list(range(n))
    assert all(len(items) > 0 for items in dealt.values())
    assert all((dealt[name] == deal(n, {})[name]).all() for name in dealt)
    assert abs(len(dealt["test"]) - n / 10) <= 1


def test_deal_never_changes():
    """If these numbers changed, test items of existing models would become training items."""
    assert deal(10, {})["test"].tolist() == [3]
    assert deal(100, {})["test"].tolist() == [3, 13, 25, 40, 53, 56, 69, 86, 89, 97]


def test_official_splits_are_kept_and_a_missing_one_is_taken_from_train():
    dealt = deal(1000, {"train": np.arange(800), "test": np.arange(800, 1000)})
    assert (dealt["test"] == np.arange(800, 1000)).all()
    assert len(dealt["valid"]) == 40
    assert sorted([*dealt["train"], *dealt["valid"]]) == list(range(800))
    assert len(deal(300_000, {"train": np.arange(299_000), "test": np.arange(299_000, 300_000)})["valid"]) == 5000
    dealt = deal(100, {"train": np.arange(90), "valid": np.arange(90, 100)})
    assert (dealt["valid"] == np.arange(90, 100)).all()
    assert len(dealt["test"]) == 9
    assert len(deal(100, {"test": np.arange(100)})["train"]) == 80


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_items_have_only_the_split_all(n):
    dataset = Dataset(TABLE, {"all": Split(np.zeros((n, 2), np.float32))}, deal(n, {}))
    assert dataset.names == ("all",)
    assert len(dataset.all) == n
    with pytest.raises(DataError, match="at least 3 items"):
        _ = dataset.train
    with pytest.raises(DataError, match="unknown split 'tes'"):
        dataset.split("tes")


def test_all_keeps_the_order_of_the_source():
    rows = np.arange(40, dtype=np.float32).reshape(20, 2)
    dataset = Dataset(TABLE, {"all": Split(rows)}, deal(20, {}))
    assert (dataset.all.x == rows).all()
    assert (dataset.test.x == rows[dataset.members["test"]]).all()


def test_all_of_given_splits_is_their_concatenation():
    one, two = Split(np.ones((2, 2), np.float32), labels=np.array([0, 1])), Split(np.zeros((1, 2), np.float32))
    dataset = Dataset(TABLE, {"train": one, "test": two})
    assert dataset.all.labels.tolist() == [0, 1, -1]
    assert dataset.names == ("train", "test", "all")


@pytest.mark.parametrize(
    "arguments",
    [
        {"x": np.zeros((2, 2))},
        {"x": np.zeros((2, 2), np.uint8), "observed": np.ones((2, 3), bool)},
        {"x": np.zeros((2, 2), np.uint8), "labels": np.zeros(2)},
        {"x": np.zeros((2, 2), np.uint8), "names": ("a",)},
    ],
)
def test_split_refuses(arguments):
    with pytest.raises(DataError):
        Split(**arguments)


def test_dataset_refuses_items_of_another_shape():
    with pytest.raises(DataError, match="must be"):
        Dataset(TABLE, {"train": Split(np.zeros((3, 4), np.float32))})


def test_bits_are_uniform():
    """Chi-square over 256 cells of each byte (false-alarm rate 1e-6 each) and the correlation of neighbours."""
    from scipy.stats import chi2

    drawn = bits(key(3), np.arange(2000), 101)
    assert drawn.shape == (2000, 101)
    assert drawn.dtype == np.uint32
    for shift in (0, 8, 16, 24):
        counts = np.bincount(((drawn >> shift) & 255).ravel(), minlength=256)
        expected = drawn.size / 256
        assert ((counts - expected) ** 2 / expected).sum() < chi2.isf(1e-6, 255)
    u = drawn / 2.0**32 - 0.5
    for a, b in ((u[1:], u[:-1]), (u[:, 1:], u[:, :-1]), (u[:, 2:], u[:, :-2])):
        assert abs((a * b).mean() * 12) < 5 / np.sqrt(a.size)


def test_bits_are_those_of_splitmix64():
    """Against the published algorithm with Python integers: the bits are the same on every machine."""
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1

    def mix(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    assert mix(1234567 + golden) == 6457827717110365317  # the published first output of seed 1234567
    for item, row in zip((0, 5, 2**40), bits(7, np.array([0, 5, 2**40]), 3).tolist(), strict=True):
        stream = mix((7 + item * golden) & mask)
        words = [mix((stream + step * golden) & mask) for step in (1, 2)]
        assert row == [words[0] % 2**32, words[0] >> 32, words[1] % 2**32]


def test_dynamic_binarisation_has_the_right_probabilities():
    """The fraction of ones at each grey level is within 5 standard errors (total false-alarm rate about 2e-4)."""
    x = np.tile(np.arange(256, dtype=np.uint8), 4000).reshape(4000, 1, 16, 16)
    schema = Schema("image", (1, 16, 16), "binary", binarize="dynamic")
    share = data.make_batch(Split(x), schema, np.arange(4000), seed=1).x.reshape(4000, 256).mean(0).double().numpy()
    p = np.arange(256) / 255
    assert share[0] == 0
    assert share[255] == 1
    assert (np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / 4000)).all()


@pytest.mark.parametrize("seed", [None, 5])
def test_noise_does_not_depend_on_neighbours(seed):
    split = grey()
    together = data.make_batch(split, GREY, np.arange(64), seed=seed, epoch=2)
    assert set(together.x.unique().tolist()) == {0.0, 1.0}
    for size in (1, 7):
        parts = [
            data.make_batch(split, GREY, np.arange(a, min(a + size, 64)), seed=seed, epoch=2).x
            for a in range(0, 64, size)
        ]
        assert torch.equal(torch.cat(parts), together.x)
    backwards = data.make_batch(split, GREY, torch.arange(63, -1, -1), seed=seed, epoch=2)
    assert torch.equal(backwards.x.flip(0), together.x)


def test_training_noise_changes_with_seed_and_epoch_and_evaluation_noise_never():
    split, items = grey(), np.arange(64)
    draws = [data.make_batch(split, GREY, items, seed=s, epoch=e).x for s, e in ((0, 0), (0, 1), (1, 0), (1, 1))]
    draws += [data.make_batch(split, GREY, items).x]
    assert all(not torch.equal(a, b) for i, a in enumerate(draws) for b in draws[:i])
    assert torch.equal(data.make_batch(split, GREY, items, epoch=9).x, draws[-1])


def test_global_random_state_is_unchanged():
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(data.batches(grey(), GREY, 16, seed=1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_threshold_and_plain_bytes():
    split = grey()
    threshold = Schema("image", (1, 28, 28), "binary", binarize="threshold")
    assert (data.make_batch(split, threshold, np.arange(3)).x.numpy() == (split.x[:3] >= 128)).all()
    x = data.make_batch(split, Schema("image", (1, 28, 28), "bytes"), np.arange(3)).x
    assert x.dtype == torch.float32
    assert (x.numpy() == split.x[:3]).all()


def test_batch_carries_mask_index_and_the_context_that_is_asked_for():
    split = Split(np.ones((5, 2), np.float32), np.eye(5, 2, dtype=bool), np.array([0, 1, -1, 1, 0]))
    batch = data.make_batch(split, TABLE, np.array([1, 2]), given=("label",)).to("cpu")
    assert batch.observed.tolist() == [[False, True], [False, False]]
    assert batch.context["label"].tolist() == [1, -1]
    assert batch.index.tolist() == [1, 2]
    assert not data.make_batch(split, TABLE, np.array([1, 2])).context  # labels are not read unless asked for
    assert not batch.blank
    batch.x.fill_(7)  # a batch is a copy, not a view
    assert (split.x == 1).all()


@pytest.mark.parametrize("index", [[5], [-1], [[0]]])
def test_batch_refuses_indices_out_of_range(index):
    with pytest.raises(DataError, match="index"):
        data.make_batch(Split(np.ones((5, 2), np.float32)), TABLE, np.array(index))


def test_batches_cover_every_item_once():
    split = grey(50)
    for seed in (None, 4):
        seen = torch.cat([b.index for b in data.batches(split, GREY, 16, seed=seed)])
        assert sorted(seen.tolist()) == list(range(50))
    assert [len(b.x) for b in data.batches(split, GREY, 16, whole=True)] == [16, 16, 16]
    with pytest.raises(DataError, match="at least 1"):
        next(data.batches(split, GREY, 0))


def test_order_is_a_permutation_keyed_by_seed_and_epoch():
    orders = [data.order(1000, s, e) for s, e in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(o) == list(range(1000)) for o in orders)
    assert all((a != b).mean() > 0.9 for i, a in enumerate(orders) for b in orders[:i])
    assert (data.order(1000, 0, 1) == orders[1]).all()
    first = np.bincount([shuffle(4, s)[0] for s in range(4000)])
    assert (np.abs(first - 1000) < 5 * np.sqrt(750)).all()
