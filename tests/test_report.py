"""The report: every panel for every kind of run, escaped, in a single file."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import ladle
from ladle.html.charts import Marks, limits, plot, ticks
from ladle.html.elements import Absent, element
from ladle.html.items import Originals, fits, view
from ladle.html.signals import reduced
from ladle.reporting import autoencoder_baseline
from ladle.reporting.compression import compression, mosaic, rivals
from ladle.reporting.report import PANELS
from ladle.reporting.subject import Subject
from ladle.spec import to_spec
from ladle.store.checkpoints import Checkpoints
from ladle.training.records import Step, read_log
from toys import narrow

LOADS = {"src", "href", "srcset", "data", "action", "poster", "background"}
ALONE = {"img", "meta", "br", "circle", "ellipse", "line", "path", "rect"}
HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(1)">&"\''


class Reader(HTMLParser):
    """Parse a page: its elements and their attributes, its text, and closing tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: dict[str, str] = {}
        self.ill: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ALONE:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.ill.append(tag)

    def handle_data(self, data: str) -> None:
        here = self.open[-1] if self.open else ""
        self.text[here] = self.text.get(here, "") + data + "\n"


def faults(page: str) -> list[str]:
    """The faults of a page: elements that load something, scripts, bad nesting, missing descriptions, its size."""
    read, found = Reader(page), []
    if read.ill or read.open:
        found.append(f"not nested: {read.ill or read.open}")
    for tag, attributes in read.elements:
        if tag in ("script", "iframe", "object", "embed", "link", "base", "form"):
            found.append(f"<{tag}>")
        for name, value in attributes.items():
            if name.startswith("on"):
                found.append(f"{tag} {name}")
            if name in LOADS and not str(value).startswith(("data:image/", "#")):
                found.append(f"{tag} {name}={str(value)[:40]}")
        if tag == "img" and not attributes.get("alt"):
            found.append("an image without a description")
        if tag == "svg" and not (attributes.get("aria-label") or attributes.get("aria-hidden")):
            found.append("a drawing without a description")
    if re.search(r"url\(|@import|http-equiv=.refresh", page):
        found.append("the style loads something")
    if len(page.encode()) >= 6e6:
        found.append("6 MB or more")
    titles = read.text.get("h2", "").split("\n")
    own = ("Latent families", "Compression")  # of some models only: tests/test_select.py, test_files_beside_the_bound
    found += [f"no panel '{title}'" for title in PANELS if title not in (*own, *titles)]
    return found


@pytest.mark.parametrize("planted", [
    "<script>1</script>", '<img src="data:image/png;base64,x">', '<img alt="x" src="http://a.b/c.png">', "<div>",
    '<link href="x.css">', '<p onclick="x">a</p>', "<svg></svg>", "<style>@import 'x'</style>", "x" * 6_000_000,
])  # fmt: skip
def test_faults_are_found(planted: str) -> None:
    whole = "".join(f"<h2>{title}</h2>" for title in PANELS)
    assert not faults(whole)
    assert faults(whole + planted)
    assert faults(whole.replace("Samples", "Simples"))


def fitted(folder: Path, data: ladle.Dataset, recipe: str = "vae", **settings: Any) -> Path:
    """The folder of a small trained model."""
    assembly = ladle.assemble(data.schema, narrow(recipe, data.schema))
    for _ in ladle.fit(assembly, data, epochs=2, run=folder, settings={"recipe": recipe, "size": "xs", **settings}):
        pass
    return folder


def drawn(run: Path, *arguments: Any, **named: Any) -> tuple[str, dict[str, Any]]:
    written = ladle.report(run, *arguments, **named)
    assert written.path == run / "report.html"
    json.dumps(written.numbers, allow_nan=False)
    return written.path.read_text(encoding="utf-8"), written.numbers


def empties(page: str) -> list[str]:
    return re.findall(r'<p class="empty">(.*?)</p>', page)


@pytest.fixture
def run(digits_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_run, tmp_path / "run"))


# ------------------------------------------------------------------------------------------------- every kind of run


def test_a_run_of_images(run: Path) -> None:
    page, numbers = drawn(run)
    assert not faults(page)
    assert not empties(page)
    assert numbers["evidence"]["samples"] == 50
    assert 1 <= numbers["evidence"]["items"] <= 180
    assert f"{numbers['evidence']['items']} held-out items" in page
    assert set(numbers["what the prior is for"]["auc"]) == {"data", "samples", "autoencoder"}
    assert 0.3 < numbers["what the prior is for"]["auc"]["data"] < 0.7
    parameters = sum(p.numel() for p in ladle.load(run).vae.parameters())
    assert numbers["architecture"]["parameters"] == parameters
    assert f"{parameters:,}" in page
    assert "2,000 draws from the prior" in page, "the quantiles of an autoregressive prior are those of its samples"
    kept = (run / "autoencoder/model.safetensors").stat().st_mtime_ns
    again, _ = drawn(run)
    assert (run / "autoencoder/model.safetensors").stat().st_mtime_ns == kept, "the next report loads it"
    assert again.count("<img") == page.count("<img")


def test_the_autoencoder_has_the_same_nets(run: Path, tmp_path: Path) -> None:
    model = ladle.load(run)
    subject = Subject(run, model, ladle.read("digits"))
    companion_model = autoencoder_baseline.autoencoder(subject)
    for part in ("likelihood",):
        assert to_spec(companion_model.vae)[part] == to_spec(model.vae)[part]
    ours, its = to_spec(model.vae.latents), to_spec(companion_model.vae.latents)
    assert its["prior"] is None
    assert its["posterior"]["net"] == ours["posterior"]["net"]
    assert its["posterior"]["event"] == ours["posterior"]["event"]
    assert companion_model.config["fit"]["minutes"] <= model.config["result"]["seconds"] / 60 + 1e-9
    with pytest.raises(Absent, match="ladle report"):
        autoencoder_baseline.autoencoder(Subject(tmp_path, model, subject.data, quick=True))


def test_a_quick_report_trains_nothing(run: Path, toys: dict[str, ladle.Dataset]) -> None:
    page, numbers = drawn(run, toys["digits"], quick=True)
    assert not faults(page)
    assert not (run / "autoencoder").exists()
    assert "ladle report run</code>, which trains" in page
    assert set(numbers["what the prior is for"]["auc"]) == {"data", "samples"}


def test_a_run_of_a_table_with_holes(tmp_path: Path, toys: dict[str, ladle.Dataset]) -> None:
    page, numbers = drawn(fitted(tmp_path / "run", toys["table"]), toys["table"], quick=True)
    assert not faults(page)
    assert ["at least 40 held-out items" in told for told in empties(page)] == [True]
    assert len(numbers["reconstructions"]["r2"]) == 4
    assert "over its prior" in page, "a standard prior has quantiles of its own"
    assert page.count('class="heat"') >= 4


@pytest.mark.parametrize("kind", ["bits", "colour", "grey"])
def test_other_images(tmp_path: Path, toys: dict[str, ladle.Dataset], kind: str) -> None:
    page, _ = drawn(fitted(tmp_path / "run", toys[kind]), toys[kind], quick=True)
    assert not faults(page)
    assert all("at least 40" in told for told in empties(page))


def test_a_plain_autoencoder_says_what_it_lacks(tmp_path: Path, toys: dict[str, ladle.Dataset]) -> None:
    page, numbers = drawn(fitted(tmp_path / "run", toys["digits"], "ae"), toys["digits"])
    assert not faults(page)
    assert len(empties(page)) == 4, "samples, traversals, use of the latents, the prior"
    assert all("plain autoencoder" in told for told in empties(page))
    assert "no bound on" in page
    assert "reconstruction loss −log p(x|z), nats" in page
    assert numbers["evidence"] is None
    assert not (tmp_path / "run/autoencoder").exists()


def test_a_run_of_signals(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(60, 2, 64)).astype(np.float32).cumsum(-1)
    schema = ladle.Schema("signal", (2, 64), [ladle.Column("real", loc=0.0, scale=float(x.std()))])
    members = {"train": np.arange(40), "valid": np.arange(40, 50), "test": np.arange(50, 60)}
    data = ladle.Dataset(schema, {"all": ladle.Split(x)}, members=members)
    plan = {**ladle.recipe("vae", schema, "xs"), "training": {"batch": 20}}
    for net, way in (("encoder", "down"), ("decoder", "up")):
        plan[net] = {"part": f"net/conv1d_{way}", "width": 4}
    for _ in ladle.fit(ladle.assemble(schema, plan), data, epochs=2, run=tmp_path / "run"):
        pass
    page, numbers = drawn(tmp_path / "run", data, quick=True)
    assert not faults(page)
    assert ["at least 40 held-out items" in text for text in empties(page)] == [True]
    assert set(numbers["reconstructions"]["r2"]) == {"channel 0", "channel 1"}
    assert page.count('class="plot bare wave"') == 10 + 12 + 4 + min(6, numbers["use of the latents"]["latents"])
    assert "new.npy" in page


# ---------------------------------------------------------------------------------------------------- what is missing


def test_data_that_is_not_there(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    run = fitted(tmp_path / "run", ladle.read(rows))
    page, _ = drawn(run)
    assert not faults(page)
    assert len(empties(page)) == 7
    assert all("ladle report RUN DATA" in told for told in empties(page))
    assert len(empties(drawn(run, rows, quick=True)[0])) < 2
    with pytest.raises(ladle.DataError, match="must be as the model's"):
        ladle.report(run, rows[:, :2])


def test_a_log_that_is_missing_or_strange(run: Path) -> None:
    whole = read_log(run / "log.jsonl")
    assert whole
    (run / "log.jsonl").unlink()
    page, _ = drawn(run, quick=True)
    assert ["no log" in told for told in empties(page)] == [True]

    note = Step("note", 1, 0.0, 0.1, 5.0, 1.0, 1.0, 1.0, 1.0, 30.0, 1.0, 3, "rolled back " + HOSTILE)._asdict()
    lines = [
        "",
        "[]",
        "7",
        "{}",
        '{"kind": "train"}',
        json.dumps({**note, "nats": "many"}),
        json.dumps(note),
        "[" * 9999,
    ]
    (run / "log.jsonl").write_text("\n".join(lines) + '\n{"kind": "tr')
    assert [r["message"] for r in read_log(run / "log.jsonl")] == [note["message"]]
    with (run / "log.jsonl").open("a") as file:
        file.write("\n" + "\n".join(map(json.dumps, whole)))
    page, numbers = drawn(run, quick=True)
    assert not faults(page)
    assert "rolled back &lt;script&gt;" in page
    assert "3 outlier gradients were clipped" in page
    assert numbers["training"] == {"notes": 1, "clipped": 3}


def test_a_run_that_goes_on(tmp_path: Path, toys: dict[str, ladle.Dataset]) -> None:
    data = toys["digits"]
    assembly = ladle.assemble(data.schema, narrow("learned_prior", data.schema))
    steps = ladle.fit(assembly, data, epochs=3, run=tmp_path / "run", settings={"recipe": "learned_prior"})
    for step in steps:
        if step.step == 15:
            break
    with pytest.raises(ladle.ModelError, match="no checkpoint yet"):
        ladle.report(tmp_path / "run")
    steps.close()  # type: ignore[attr-defined]
    page, numbers = drawn(tmp_path / "run", quick=True)
    assert not faults(page)
    assert "In training, step 15" in page
    assert numbers["step"] == 15

    model, step = ladle.store.folder.load_unfinished(tmp_path / "run", "cpu")
    tensors = Checkpoints(tmp_path / "run").latest()[0]  # type: ignore[index]
    for i, parameter in enumerate(model.vae.parameters()):
        assert (parameter == tensors[f"average.{i}"]).all(), "the averaged weights, not those of the last step"
    assert step == 15
    with pytest.raises(ladle.ModelError, match="training has not ended"):
        ladle.load(tmp_path / "run")
    state = tmp_path / "run/checkpoints/step-000000015/state.safetensors"
    state.write_bytes(state.read_bytes()[:-9])
    with pytest.raises(ladle.ModelError, match="truncated"):
        ladle.report(tmp_path / "run")


# ------------------------------------------------------------------------------------------------------------ hostile


def test_hostile_text_is_escaped(tmp_path: Path) -> None:
    noise = np.random.default_rng(1)
    x = noise.normal(size=(120, 2)).astype(np.float32)
    words = {"label_names": ("!" + HOSTILE, "two"), "policy": HOSTILE, "source": HOSTILE.replace("/", "|")}
    schema = ladle.Schema("table", (2,), [ladle.Column("real", name, 0.0, 1.0) for name in (HOSTILE, "`b`")], **words)
    rows = ladle.Split(x, labels=noise.integers(0, 2, 120))
    members = {"train": np.arange(60), "valid": np.arange(60, 80), "test": np.arange(80, 120)}
    data = ladle.Dataset(schema, {"all": rows}, members, notes=(HOSTILE,))
    run = fitted(tmp_path / "run", data, recipe="vae")
    config = json.loads((run / "config.json").read_text())
    config["fit"]["recipe"], config["ladle"], config["result"]["seconds"] = HOSTILE, HOSTILE, HOSTILE
    (run / "config.json").write_text(json.dumps(config))
    page, _ = drawn(run, data, quick=True)
    assert not faults(page)
    assert page.count("&lt;script&gt;alert(1)") > 8
    assert not empties(page)


@pytest.mark.parametrize("part", ["data", "fit", "result", "training"])
@pytest.mark.parametrize("value", [None, [], 7, {"items": {"a": "b"}, "notes": 3, "nats": [], "seconds": 1e400}])
def test_a_config_with_unexpected_values(run: Path, part: str, value: Any) -> None:
    model = ladle.load(run)
    strange = MappingProxyType({**model.config, part: value})
    subject = Subject(run, ladle.Model(model.vae, model.schema, strange, "cpu"), None, "no data")
    from ladle.reporting.summary import head, use

    assert "<h1>digits</h1>" in head(subject)[0]
    assert use(subject).title == "How to use it"


# ------------------------------------------------------------------------------------------------------- small pieces


def test_fits_is_the_share_of_the_variance() -> None:
    x = np.array([[1.0, 5.0, 2.0], [3.0, 5.0, np.nan], [5.0, 5.0, 4.0]])
    again = np.array([[1.0, 5.0, 3.0], [3.0, 5.0, 9.0], [3.0, 5.0, 3.0]])
    found = fits(x, again)
    assert found[[0, 2]].tolist() == [0.5, 0.0]
    assert np.isnan(found[1])


@pytest.mark.parametrize("values", [[], [np.nan], [3.0], [0.0, 0.0], [-1e30, 1e30], [1e-12, 2e-12]])
def test_charts_of_strange_numbers(values: list[float]) -> None:
    chart = plot([Marks(values, values), Marks(values, values, kind="dots")], "a chart")
    assert "nan" not in chart
    assert "inf" not in chart
    assert not Reader(chart).ill
    low, high = limits(np.array(values))
    assert low < high
    assert all(low <= t <= high for t in ticks(low, high))


def test_long_signals_keep_their_extremes() -> None:
    values = np.random.default_rng(0).normal(size=16_000)
    values[777], values[5000], values[9000:9400] = 50.0, -60.0, np.nan
    at, few = reduced(values)
    assert len(at) == len(few) == 240
    assert (np.nanmax(few), np.nanmin(few)) == (50.0, -60.0)
    assert (np.diff(at) >= 0).all()
    assert at[-1] == 15_999
    assert np.isnan(few).any()


def test_rows_of_all_kinds_of_columns_are_drawn() -> None:
    columns = [
        ladle.Column("category", "colour", values=("red", "blue")),
        ladle.Column("count", "visits"),
        ladle.Column("ordinal", "grade", values=("low", "middle", "high")),
        ladle.Column("real", "height", 1.7, 0.2),
    ]
    rows = view(ladle.Schema("table", (4,), columns))
    x = np.array([[0, 7, 2, 1.5], [1, 0, 1, 1.8], [1, 3, np.nan, 1.7]])
    found = rows.reconstructions(Originals(x, x), np.where(np.isnan(x), 1.0, x), 2)
    assert found.numbers["r2"] == {"colour": None, "visits": 1.0, "grade": 1.0, "height": 1.0}
    assert "100 % equal" in found.body
    body = rows.samples(Originals(x, x), np.nan_to_num(x)).body
    assert ">red<" in body
    assert ">high<" in body


def test_text_is_escaped() -> None:
    assert element("p", HOSTILE, title=HOSTILE).count("<") == 2


def test_the_command(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from ladle.cli import main

    with pytest.raises(SystemExit) as left:
        main(["report", str(run), "--json"])
    assert not left.value.code
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["report"] == str(run / "report.html")
    assert told["what the prior is for"]["auc"]["samples"] <= 1
    assert told["use of the latents"]["active_units"] <= 3
    assert "drawing" in err
    assert not [p for p in run.iterdir() if p.name.startswith(".")]


def test_a_report_of_a_model_on_the_hub_has_no_place() -> None:
    with pytest.raises(ladle.ModelError, match="folder of this machine"):
        ladle.report("hub:user/name")


def test_files_beside_the_bound(tmp_path: Path, digits_run: Path) -> None:
    """The panel of compression gives the sizes of actual files, and the bound."""
    run = tmp_path / "run"
    shutil.copytree(digits_run, run)
    subject = Subject(run, ladle.load(run), ladle.read("digits"))
    panel = compression(subject)
    assert panel is not None
    found = panel.numbers
    assert {"bound", "Ladle", "xz", "PNG", "WebP"} <= set(found)
    assert 0 < found["Ladle"]["together"] < found["Ladle"]["alone"] < found["PNG"]["alone"]
    assert f"{found['Ladle']['together']:.3f}" in panel.body
    assert compression(Subject(run, subject.model, subject.data, quick=True)) is None


def test_sizes_of_other_codecs() -> None:
    """Binary values take one bit each; a mosaic contains every item."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (30, 1, 16, 16), np.uint8)
    for whole, alone in rivals(noise).values():
        assert whole > noise.size
        assert alone > noise[0].size
    for whole, _ in rivals(noise % 2).values():
        assert whole > noise.size / 8
    colours = rng.integers(0, 256, (7, 3, 4, 5), np.uint8)
    shown = mosaic(colours)
    assert shown.shape == (3, 12, 15)
    assert (shown[:, 4:8, 5:10] == colours[4]).all()
