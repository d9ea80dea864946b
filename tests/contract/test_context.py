"""Context is honoured or refused: what a model is conditioned on, from the plan to every task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ladle
from ladle.data import Batch, DataError, blank, make_batch
from ladle.model.latents import from_prior
from ladle.model.priors.conditional import ClassConditional
from ladle.recipes.plans import check_plan
from ladle.spec import build
from toys import narrow, stirred

NORMAL = {"part": "family/normal"}
CONDITIONAL = {"part": "prior/conditional", "components": 2}


def digits() -> ladle.Dataset:
    return ladle.read("digits")


def plan(schema: ladle.Schema, prior: Mapping[str, Any] = CONDITIONAL) -> dict[str, Any]:
    base = narrow("vae", schema)
    return {**base, "latents": {**base["latents"], "prior": dict(prior)}}


def prior(classes: int = 3, components: int = 2) -> ClassConditional:
    return stirred(ClassConditional(build(NORMAL), event=[2], classes=classes, components=components))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a small model of the digits with a class-conditional prior."""
    data, folder = digits(), tmp_path_factory.mktemp("conditional") / "run"
    quick = {**plan(data.schema), "training": {"batch": 16, "rate": 5e-3}}
    assembly = ladle.assemble(data.schema, quick, seed=1)
    for _ in ladle.fit(assembly, data, epochs=10, seed=1, run=folder, settings={"recipe": "vae", "size": "xs"}):
        pass
    return folder


# ------------------------------------------------------------------------------------------- the prior


def test_an_unknown_label_is_the_exact_marginal() -> None:
    p, z = prior(), torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    unknown = p(50, {"label": torch.full((50,), -1)}).log_prob(z)
    none = p(50, {}).log_prob(z)
    each = torch.stack([p(50, {"label": torch.full((50,), c)}).log_prob(z) for c in range(3)])
    marginal = (each + p.log_shares()[:, None]).logsumexp(0)
    assert torch.allclose(unknown, marginal, atol=1e-5)
    assert torch.allclose(none, marginal, atol=1e-5)


def test_items_of_a_batch_have_labels_of_their_own() -> None:
    p, z = prior(), torch.zeros(4, 2)
    labels = torch.tensor([2, -1, 0, 1])
    together = p(4, {"label": labels}).log_prob(z)
    alone = torch.cat([p(1, {"label": labels[i : i + 1]}).log_prob(z[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert len(set(together.tolist())) == 4
    assert torch.allclose(p(4, {"label": labels}).expand((5, 4)).log_prob(z), together.expand(5, 4))


@pytest.mark.parametrize("label", [-1, 0, 2])
def test_every_label_has_a_density_that_integrates_to_one(label: int) -> None:
    p = prior()
    axis = torch.linspace(-15, 15, 301)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = p(len(grid), {"label": torch.full((len(grid),), label)}).log_prob(grid).exp()
    assert float(density.sum()) * 0.1**2 == pytest.approx(1.0, abs=1e-3)


def test_samples_of_a_label_are_of_its_density() -> None:
    """A chi-squared test of 20,000 draws in 16 cells; with this seed it passes, and by chance 1 in 1,000 would not."""
    p = prior()
    d = p(1, {"label": torch.tensor([1])})
    with torch.random.fork_rng():
        torch.manual_seed(3)
        z = d.sample((20_000,))[:, 0]
    axis = torch.linspace(-8, 8, 641)
    grid = torch.cartesian_prod(axis, axis)
    mass = d.log_prob(grid[:, None]).exp()[:, 0] * 0.025**2
    edges = torch.tensor([-1.0, 0.0, 1.0])
    counts = torch.zeros(16).index_add(0, cell(z, edges), torch.ones(len(z)))
    expected = len(z) * torch.zeros(16).index_add(0, cell(grid, edges), mass)
    chi_squared = float(((counts - expected).square() / expected.clamp(min=1)).sum())
    assert chi_squared < 37.7  # the 0.999 quantile with 15 degrees of freedom


def cell(z: Tensor, edges: Tensor) -> Tensor:
    first, second = torch.bucketize(z.contiguous(), edges).unbind(-1)
    return 4 * first + second


def test_shares_are_learned_from_labels_while_the_density_stays_conditional() -> None:
    p = prior()
    d = p(6, {"label": torch.tensor([0, 0, 0, 1, -1, -1])})
    d.log_prob(torch.zeros(6, 2)).sum().backward()
    gradient = p.shares.grad
    assert gradient is not None
    assert gradient[0] > gradient[2]
    known = torch.tensor([0, 0, 0, 1])
    with torch.no_grad():
        before = p(4, {"label": known}).log_prob(torch.zeros(4, 2))
        p.shares.add_(torch.tensor([3.0, 0.0, -3.0]))
        assert torch.allclose(p(4, {"label": known}).log_prob(torch.zeros(4, 2)), before)


@pytest.mark.parametrize(
    "label", [torch.tensor([0, 3]), torch.tensor([-2, 0]), torch.tensor([0]), torch.tensor([0.0, 1.0])]
)
def test_a_label_that_cannot_be_is_refused(label: Tensor) -> None:
    with pytest.raises(ValueError, match="labels must"):
        prior()(2, {"label": label})


# ---------------------------------------------------------------------------------- assembly and loading


def test_a_context_that_nothing_reads_is_refused_at_assembly() -> None:
    schema = digits().schema
    with pytest.raises(ladle.SpecError, match="names label and the parts read nothing"):
        ladle.assemble(schema, {**narrow("vae", schema), "context": ["label"]})
    with pytest.raises(ladle.SpecError, match="names nothing and the parts read label"):
        ladle.assemble(schema, {**plan(schema), "context": []})
    assert ladle.assemble(schema, {**plan(schema), "context": ["label"]}).model.context == {"label": 10}


def test_data_without_labels_are_refused_at_assembly() -> None:
    schema = replace(digits().schema, label_names=())
    with pytest.raises(ladle.SpecError, match="reads labels, but the data have none"):
        ladle.assemble(schema, plan(schema))
    with pytest.raises(ladle.SpecError, match="'label' of 4 classes, but the data have 10 classes"):
        ladle.assemble(digits().schema, plan(digits().schema, {**CONDITIONAL, "classes": 4}))


def test_a_walk_refuses_a_context_that_the_model_does_not_read() -> None:
    data = digits()
    model = ladle.assemble(data.schema, narrow("vae", data.schema)).model
    batch = make_batch(data.train, data.schema, np.arange(3), given=("label",))
    with pytest.raises(DataError, match="reads no context, got the context label"):
        model(batch)
    with pytest.raises(DataError, match="reads no context"):
        model.walk(from_prior(), model.blank(3, {"label": torch.zeros(3, dtype=torch.int64)}))


def test_labels_that_are_needed_and_missing_are_asked_for() -> None:
    data = digits()
    unlabelled = ladle.Dataset(
        data.schema, {name: data.split(name).relabelled(None) for name in ("train", "valid", "test")}
    )
    assembly = ladle.assemble(data.schema, plan(data.schema))
    with pytest.raises(DataError, match="reads labels, but digits has none"):
        next(iter(ladle.fit(assembly, unlabelled, epochs=1)))
    with pytest.raises(DataError, match="'label', got 'colour'"):
        make_batch(data.train, data.schema, np.arange(3), given=("colour",))


def test_a_model_that_reads_other_labels_than_its_schema_has_is_not_opened(run: Path, tmp_path: Path) -> None:
    import json
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    config["schema"]["label_names"] = config["schema"]["label_names"][:7]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ladle.ModelError, match="10 classes, but the data have 7 classes"):
        ladle.load(folder)


# ----------------------------------------------------------------------------------------------- tasks


def test_it_trains_saves_and_loads(run: Path) -> None:
    model = ladle.load(run)
    assert model.vae.context == {"label": 10}
    shares = model.vae.latents.prior.log_shares().exp()
    counts = np.bincount(digits().train.labels, minlength=10) / len(digits().train)
    assert np.abs(shares.numpy() - counts).max() < 0.05
    assert (run / "README.md").read_text().count("prior/conditional") == 1


def test_samples_of_a_label_are_asked_for_by_name(run: Path) -> None:
    model = ladle.load(run)
    x = ladle.sample(model, 5, label="3", seed=1)
    assert x.shape == (5, 1, 8, 8)
    assert np.array_equal(x, ladle.sample(model, 5, label="3", seed=1))
    assert not np.array_equal(x, ladle.sample(model, 5, label="4", seed=1))
    assert not np.array_equal(x, ladle.sample(model, 5, seed=1))
    with pytest.raises(DataError, match="known: 0, 1, 2"):
        ladle.sample(model, 5, label="zebra")


def test_samples_of_a_label_look_like_it(run: Path) -> None:
    """Judged by the nearest mean of the training images of each digit: chance would be right 1 time in 10."""
    data, model = digits(), ladle.load(run)
    middles = np.stack([data.train.x[data.train.labels == c].mean(0) for c in range(10)])
    right = 0
    for c in range(10):
        x = ladle.sample(model, 20, label=str(c), seed=2)
        nearest = ((x[:, None] - middles) ** 2).reshape(20, 10, -1).sum(-1).argmin(1)
        right += int((nearest == c).sum())
    assert right / 200 > 0.3


def test_a_label_is_refused_by_a_model_that_reads_none(digits_run: Path) -> None:
    with pytest.raises(DataError, match="reads no labels"):
        ladle.sample(ladle.load(digits_run), 2, label="3")


def test_evidence_is_of_p_x_whether_or_not_the_data_have_labels(run: Path) -> None:
    model, data = ladle.load(run), digits()
    labelled = data.test.take(np.arange(6))
    bare = labelled.relabelled(None)
    for method in ("iwae", "ais"):
        few = {"method": method, "samples": 4, "temperatures": 6}
        one, two = ladle.evidence(model, labelled, **few), ladle.evidence(model, bare, **few)
        assert one.nats == two.nats
        assert np.isfinite(one.nats)
    assert np.array_equal(ladle.score(model, labelled), ladle.score(model, bare))
    assert np.array_equal(ladle.encode(model, labelled), ladle.encode(model, bare))


def test_exact_evidence_of_two_latents_agrees_with_the_bound() -> None:
    data = digits()
    chosen = plan(data.schema)
    chosen["latents"]["size"] = 2
    vae = stirred(ladle.assemble(data.schema, chosen, seed=1).model).eval().requires_grad_(False)
    model = ladle.Model(vae, data.schema, {}, "cpu")
    item = data.test.take(np.arange(1))  # quadrature takes ten seconds per item
    exact = ladle.evidence(model, item, method="exact")
    bound = ladle.evidence(model, item, samples=2000, proposal="defensive")
    assert exact.kind == "exact"
    assert bound.nats == pytest.approx(exact.nats, abs=0.3)


def test_it_is_checked_reported_and_compared(run: Path, tmp_path: Path) -> None:
    data, model = digits(), ladle.load(run)
    findings = {f.name: f for f in ladle.check(model, data).findings}
    for name in ("weights", "supports", "neighbours", "normalisation"):
        assert findings[name].ok, findings[name]
    written = ladle.report(run, data, quick=True)
    assert "conditional" in written.path.read_text()
    assert ladle.reconstruct(model, data.test.x[:3], draws=2).shape == (3, 2, 1, 8, 8)
    assert ladle.decode(model, ladle.encode(model, data.test.x[:3])).shape == (3, 1, 8, 8)
    selection = ladle.select(
        data, out=tmp_path / "selection", recipe=plan(data.schema), families=["normal", "conditional"], latents=2,
        steps=20, seeds=1, finalists=2, samples=5, items=20,
    )  # fmt: skip
    assert {row.family for row in selection.rows if row.status != "failed"} == {"normal", "conditional"}


def test_it_compresses_without_labels(run: Path, tmp_path: Path) -> None:
    x = digits().test.x[:50].astype(np.uint8)
    ladle.compress(run, x, tmp_path / "x.ladle")
    assert np.array_equal(ladle.decompress(tmp_path / "x.ladle", model=run), x)


# ----------------------------------------------------------------------------------- plans and batches


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encodr": {"part": "net/mlp"}}, "unknown key 'encodr' \\(did you mean 'encoder'\\?\\)"),
        ({"training": {"rat": 1e-3}}, "unknown key 'rat' \\(did you mean 'rate'\\?\\)"),
        ({"encoder": {"part": "net/mlp", "widht": 4}}, "unknown argument 'widht' \\(did you mean 'width'\\?\\)"),
        ({"likelihood": {"part": "family/bernouli"}}, "did you mean 'bernoulli'"),
        ({"decoder": "net/mlp"}, "'decoder' of a plan must be a part"),
    ],
)
def test_an_unknown_key_of_a_plan_is_answered_with_the_nearest(change: dict[str, Any], message: str) -> None:
    schema = digits().schema
    with pytest.raises(ladle.SpecError, match=message):
        ladle.assemble(schema, {**narrow("vae", schema), **change})


def test_an_unknown_or_lacking_key_of_the_latents_is_named() -> None:
    base = narrow("vae", digits().schema)
    with pytest.raises(ladle.SpecError, match=r"unknown key 'poste' .*did you mean 'posterior'"):
        check_plan({**base, "latents": {**base["latents"], "poste": {}}})
    with pytest.raises(ladle.SpecError, match="needs the key 'prior'"):
        check_plan({**base, "latents": {k: v for k, v in base["latents"].items() if k != "prior"}})
    with pytest.raises(ladle.SpecError, match="needs the key 'encoder'"):
        check_plan({k: v for k, v in base.items() if k != "encoder"})


def test_a_blank_batch_has_no_posterior() -> None:
    data = digits()
    model = ladle.assemble(data.schema, narrow("vae", data.schema)).model
    seen: list[Any] = []

    def draw(level: int, q: Any, p: Any) -> Tensor:
        seen.append(q)
        return p.sample()

    assert model.walk(draw, model.blank(4)).h.shape == (4, 3)
    model.walk(draw, Batch(torch.zeros(2, 1, 8, 8), None, {}, torch.arange(2)))
    assert seen[0] is None
    assert seen[1] is not None
    assert blank((1, 8, 8), 10**6).x.untyped_storage().nbytes() == 4
