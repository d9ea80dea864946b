"""Draw the figures of ``docs/understand.md`` from the models that its code blocks train.

    python docs/figures.py

The script runs the code blocks of the page in order, so the figures show the computed results, and writes them to
``docs/understand/``. All random numbers are seeded: on one machine the figures are the same every time.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch.distributions import Normal

import ladle
from ladle.html.style import CSS
from ladle.inference import linear_gaussian as linear
from ladle.reporting.graph import drawing, name_of
from ladle.seeds import seeded

DOCS = Path(__file__).parent
PAPER, INK, SOFT, LINE, ACCENT, BLUE, GREEN = (
    "#fdfcfa",
    "#1f2328",
    "#5b626a",
    "#e4e1db",
    "#b8430e",
    "#2f6690",
    "#4d7c2f",
)
TEN = ["#b8430e", "#2f6690", "#4d7c2f", "#8a3f8f", "#b0852a", "#1f8a83", "#c2486b", "#5b5bc0", "#7a5c44", "#8b98a5"]
STYLE = {
    "figure.facecolor": PAPER, "figure.constrained_layout.w_pad": 0.12, "figure.constrained_layout.h_pad": 0.08,
    "axes.facecolor": PAPER, "axes.edgecolor": SOFT, "axes.labelcolor": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 12, "axes.titlelocation": "left",
    "font.size": 12, "text.color": INK, "xtick.color": SOFT, "ytick.color": SOFT,
    "legend.frameon": False, "legend.fontsize": 11, "lines.linewidth": 2, "savefig.dpi": 130, "grid.color": LINE,
}  # fmt: skip


def page() -> dict[str, Any]:
    """Run the code blocks of the page and return their namespace, with the trained models added as ``models``."""
    text, scope = (DOCS / "understand.md").read_text(encoding="utf-8"), {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), open(os.devnull, "w") as nowhere:
        with contextlib.redirect_stdout(nowhere):
            for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
                exec(compile(code, "understand.md", "exec"), scope)
        scope["models"] = {name: ladle.load(name) for name in ("ae", "vae")}
    return scope


def panels(n: int, height: float = 3.4, **settings: Any) -> tuple[Figure, Any]:
    """A figure of the width of the page with n axes side by side."""
    return plt.subplots(1, n, figsize=(7.6, height), layout="constrained", **settings)


def bare(axes: Axes, title: str = "") -> None:
    """Remove the ticks and the frame, and set the title."""
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[:].set_visible(False)


def pools(s: dict[str, Any]) -> Figure:
    """Codes and random vectors, and the decoded random vectors."""
    figure, all_axes = plt.subplots(2, 2, figsize=(7.6, 7.4), layout="constrained")
    labels, vectors, shown = s["images"].train.labels.astype(int), s["vectors"], 36
    for (left, right), (name, title) in zip(all_axes, {"ae": "Autoencoder", "vae": "VAE"}.items(), strict=True):
        left.scatter(*s["codes"][name][::2].T, c=[TEN[i] for i in labels[::2]], s=11, linewidths=0)
        left.scatter(*vectors[:150].T, c=INK, s=7, linewidths=0)
        left.set(
            title=f"{title}: codes, random vectors",
            aspect="equal",
            xlim=(-7, 7),
            ylim=(-6, 8),
            xticks=(-5, 0, 5),
            yticks=(-5, 0, 5),
        )
        x = ladle.decode(s["models"][name], vectors[:shown])[:, 0]
        side, pixels = 6, x.shape[-1] + 1
        sheet = np.zeros((side * pixels - 1, side * pixels - 1))
        for i, image in enumerate(x):
            top, start = i // side * pixels, i % side * pixels
            sheet[top : top + pixels - 1, start : start + pixels - 1] = image
        right.imshow(sheet, cmap="gray_r", vmin=0, vmax=1)
        bare(right, "decoded random vectors")
    return figure


def integral(s: dict[str, Any]) -> Figure:
    """The area under p(x, z) as a function of z, for one item."""
    figure, (left, right) = panels(2)
    one, q, line = s["one"], s["q"], s["line"]
    left.scatter(*s["rows"].T, s=5, color=BLUE, alpha=0.35, linewidths=0)
    ends = line.mean + torch.tensor([[-3.0], [3.0]]).double() @ line.weight.T
    left.plot(*ends.T, color=INK, linewidth=1.5)
    left.scatter(*one, s=60, color=ACCENT, zorder=3)
    left.annotate("the item x", one.numpy(), (-14, 12), textcoords="offset points", color=ACCENT, ha="right")
    left.set(title="items, and the line μ + w z", xlim=(-5, 5), ylim=(-6, 2))
    z = torch.linspace(-5, 5, 2000).double()[:, None]
    prior, joint = s["pool"].log_prob(z).exp()[:, 0], s["log_joint"](z, one).exp()
    at = z[:, 0] * q.mean.sign()[0]  # (w, z) and (-w, -z) are the same model: choose the sign that makes z positive
    right.fill_between(at, prior / prior.max(), color=LINE)
    right.fill_between(at, joint / joint.max(), color=ACCENT, alpha=0.35)
    right.plot(at, joint / joint.max(), color=ACCENT)
    right.text(-0.25, 0.35, "p(z),\nthe pool", color=SOFT, ha="center")
    right.text(float(q.mean.abs()) + 0.6, 0.8, "p(x, z)", color=ACCENT)
    right.set(title="densities, scaled to the same peak", xlabel="z", yticks=[], ylim=(0, 1.1), xlim=(-4, 4.5))
    return figure


def map_(s: dict[str, Any]) -> Figure:
    """The length of w by ML and by MAP against the number of items."""
    figure, axes = panels(1)
    sizes, rows = (5, 8, 12, 20, 40, 80, 160, 320, 640), s["rows"]
    lengths = np.empty((2, len(sizes), 200))
    with seeded(0):
        for i, n in enumerate(sizes):
            for draw in range(200):
                subset = rows[torch.randperm(len(rows))[:n]]
                lengths[:, i, draw] = [float(linear.ppca(subset, 1, p).weight.norm()) for p in (0.0, 1.0)]
    for each, colour, name in zip(lengths, (BLUE, ACCENT), ("maximum likelihood", "MAP"), strict=True):
        axes.fill_between(sizes, *np.quantile(each, (0.1, 0.9), axis=1), color=colour, alpha=0.15, linewidth=0)
        axes.plot(sizes, each.mean(1), color=colour, label=name, marker="o", markersize=4)
    axes.axhline(float(s["line"].weight.norm()), color=SOFT, linestyle=":", label="all 800 items")
    axes.set(xscale="log", xlabel="number of items N", title="length of w", xticks=(5, 20, 80, 320), xlim=(5, 640))
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.legend(loc="lower right")
    return figure


def em(s: dict[str, Any]) -> Figure:
    """The evidence after every step of EM, and its distance to the optimum on a logarithmic axis."""
    figure, (left, right) = panels(2)
    best = float(s["line"].log_prob(s["rows"]).mean())
    for seed, colour in ((0, ACCENT), (2, BLUE), (3, GREEN)):
        path = linear.em(s["rows"], 1, steps=40, seed=seed).evidence.numpy()
        left.plot(path, color=colour)
        right.semilogy(np.maximum(best - path, 1e-12), color=colour)
    left.axhline(best, color=INK, linestyle=":")
    left.text(40, best + 0.03, "optimum of section 4", ha="right")
    left.set(title="mean log p(x), nats", xlabel="EM steps, three starting points", ylim=(best - 0.75, best + 0.15))
    right.set(title="distance to the optimum, nats", xlabel="EM steps", ylim=(1e-10, 10))
    return figure


def bayes(s: dict[str, Any]) -> Figure:
    """The Laplace posterior of the mean, and the distribution of the evidence under it."""
    from scipy.stats import chi2

    figure, (left, right) = panels(2)
    line, n, means = s["line"], len(s["rows"]), s["means"]
    turn = torch.linspace(0, 2 * np.pi, 200).double()
    round_ = torch.stack([turn.cos(), turn.sin()]) * chi2(2).ppf(0.9) ** 0.5
    ellipse = line.mean[:, None] + torch.linalg.cholesky(line.covariance / n) @ round_
    left.scatter(*means.T, s=5, color=ACCENT, alpha=0.5, linewidths=0)
    left.plot(*ellipse, color=INK, linewidth=1.5)
    left.set(title="draws of μ, exact 90 % ellipse", xlabel="first element of μ", xticks=(-0.2, -0.1, 0, 0.1))
    rows, best = s["rows"], float(line.log_prob(s["rows"]).mean())
    drawn = s["posterior"].draws(s["bayes"].vae, 1000, seed=1)
    short = [1000 * (best - float(linear.gaussian(vae).log_prob(rows).detach().mean())) for vae in drawn]
    right.hist(short, bins=30, range=(0, 15), density=True, color=ACCENT, alpha=0.4)
    grid = np.linspace(0, 15, 300)
    right.plot(grid, chi2(5).pdf(grid / 1000 * 2 * n) * 2 * n / 1000, color=INK, linewidth=1.5)
    right.set(
        title="shortfall from the maximum",
        xlabel="mean log p(x), 1/1000 nat",
        xticks=(0, 5, 10, 15),
        yticks=[],
        xlim=(0, 15),
    )
    return figure


def montecarlo(s: dict[str, Any]) -> Figure:
    """The error of the estimate against the number of draws, with the pool and with a density near the posterior."""
    figure, axes = panels(1, 3.8)
    sizes = np.unique(np.logspace(0, 4, 13).astype(int))
    with seeded(2):
        for r, colour, name in (
            (s["pool"], BLUE, "draws from the pool p(z)"),
            (s["near"], ACCENT, "draws near the posterior"),
        ):
            off = [float((s["estimates"](r, int(k), 300) - s["truth"]).square().mean().sqrt()) for k in sizes]
            axes.loglog(sizes, off, color=colour, marker="o", markersize=4, label=name)
    axes.loglog(sizes, 0.5 / np.sqrt(sizes), color=SOFT, linestyle=":", label="slope of 1/√K")
    axes.set(title="error of log p(x), nats (root mean square)", xlabel="number of draws K")
    axes.legend()
    return figure


def bound_(s: dict[str, Any]) -> Figure:
    """The bounds against K and the exact value, and the standard deviation of both gradient estimators."""
    figure, (left, right) = panels(2, 3.8)
    exact = s["nats"]["exact"].mean()
    sizes = (1, 2, 5, 10, 20, 50, 100)
    gaps = np.array([
        [ladle.measure(s["bent"], s["data"], split="test", samples=k, seed=seed).nats.mean() - exact for k in sizes]
        for seed in range(20)
    ])  # fmt: skip
    left.errorbar(
        sizes, gaps.mean(0), gaps.std(0) / 20**0.5, color=ACCENT, marker="o", markersize=4, label="importance-weighted"
    )
    way = s["ways"]["annealed"]
    ais = [ladle.measure(s["bent"], s["data"], split="test", seed=seed, **way).nats.mean() for seed in range(5)]
    middle, error = np.mean(ais) - exact, np.std(ais, ddof=1) / 5**0.5
    print(f"annealed: {middle:.4f} ± {error:.4f}")
    left.axhspan(middle - error, middle + error, color=BLUE, alpha=0.2, linewidth=0)
    left.axhline(middle, color=BLUE, linestyle="--", label="annealed, 4 chains")
    left.axhline(0, color=INK, linestyle=":", label="exact")
    left.set(xscale="log", title="nats below the exact log p(x)", xlabel="K (K = 1 is the ELBO)")
    left.legend()
    q, one, e = s["q"], s["one"], s["e"]
    offs, found = np.linspace(0, 2, 21), {"score": [], "reparameterised": []}
    for off in offs:
        m = (q.mean[0] + off).expand(len(e), 1).clone().requires_grad_()
        z = m + q.stddev[0] * e
        f = s["log_joint"](z, one) - Normal(m, q.stddev[0]).log_prob(z).sum(-1)
        found["reparameterised"].append(float(torch.autograd.grad(f.sum(), m)[0].std()))
        found["score"].append(float((f.detach()[:, None] * e / q.stddev[0]).std()))
    for (name, values), colour in zip(found.items(), (BLUE, ACCENT), strict=True):
        right.plot(offs, values, color=colour, label=name)
    right.set(title="std. dev. of one gradient", xlabel="distance from the posterior mean", ylim=(0, None))
    right.legend()
    return figure


def standard(name: str) -> Any:
    """Two independent latents with the standard member of a family (raw parameters of zero)."""
    family = ladle.build({"part": f"family/{name}"})
    return family(*(torch.zeros(size) for size in family.raw((2,))))


def families(_: dict[str, Any]) -> Figure:
    """The densities of the families in two dimensions."""
    figure, all_axes = plt.subplots(3, 3, figsize=(7.6, 7.9), layout="constrained")
    axes = dict(zip(("normal", "Laplace", "Student-t", "mixture", "sphere", "circle × circle", "Dirichlet", "Beta",
                     "categorical"), all_axes.flat, strict=True))  # fmt: skip
    line = torch.linspace(-4, 4, 161)
    points = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
    for name, part in (("normal", "normal"), ("Laplace", "laplace"), ("Student-t", "student_t")):
        shade(axes[name], standard(part).log_prob(points).sum(-1), (-4, 4, -4, 4))
    three = torch.tensor([[-1.8, -1.0], [1.9, -1.4], [0.2, 1.8]])
    mixture = ladle.build({"part": "family/mixture", "family": {"part": "family/normal"}, "components": 3})
    shade(axes["mixture"], mixture(torch.zeros(3), three, torch.full((3, 2), -1.0)).log_prob(points), (-4, 4, -4, 4))
    sphere = ladle.build({"part": "family/power_spherical"})(torch.tensor([1.5, 1.5, 3.0]))
    height = (1 - (points / 4).square().sum(-1)).clamp_min(0).sqrt()
    log = sphere.log_prob(torch.cat([points / 4, height[..., None]], dim=-1))
    shade(axes["sphere"], log.where(height > 0, torch.nan), (-4, 4, -4, 4))
    angles = torch.linspace(-np.pi, np.pi, 161)
    circles = ladle.build({"part": "family/von_mises"})(torch.tensor([[-2.0, 0.0], [1.0, 1.0]]))
    pairs = torch.stack(torch.meshgrid(angles, angles, indexing="xy"), dim=-1)
    shade(axes["circle × circle"], circles.log_prob(pairs).sum(-1), (-4, 4, -4, 4))
    side = torch.linspace(0.002, 0.998, 161)
    first, second = torch.meshgrid(side, side, indexing="xy")
    up = second / (3**0.5 / 2)  # the height of an equilateral triangle
    shares = torch.stack([1 - first - up / 2, first - up / 2, up], dim=-1)
    inside = (shares > 0.001).all(-1)
    dirichlet = ladle.build({"part": "family/dirichlet"})(torch.tensor([1.0, 2.0, 3.0]))
    log = dirichlet.log_prob(shares.where(inside[..., None], torch.tensor(1 / 3)))
    shade(axes["Dirichlet"], log.where(inside, torch.nan), (-4, 4, -4, 4))
    beta = ladle.build({"part": "family/beta"})(torch.tensor([-1.2, 2.0]), torch.tensor([-1.2, 3.0]))
    shade(axes["Beta"], beta.log_prob(torch.stack([first, second], dim=-1)).sum(-1), (-4, 4, -4, 4))
    first, second = (torch.tensor(logits).softmax(-1) for logits in ([0.0, 1.0, 0.5, -0.5], [1.0, 0.0, 0.3, -1.0]))
    at = np.linspace(-3, 3, 4)
    axes["categorical"].scatter(*np.meshgrid(at, at), s=4000 * (second[:, None] * first), color=ACCENT, linewidths=0)
    axes["categorical"].set(xlim=(-4, 4), ylim=(-4, 4))
    for name, each in axes.items():
        bare(each, name)
        each.set_aspect("equal")
    return figure


def shade(axes: Axes, log: torch.Tensor, extent: tuple[float, float, float, float]) -> None:
    """Draw a log-density as filled contours from its maximum to 6 nats below; NaN is left blank."""
    below = np.ma.masked_invalid((log - log[log.isfinite()].max()).numpy())
    axes.contourf(np.maximum(below, -6), levels=np.linspace(-6, 0, 13), extent=extent, cmap="YlOrBr")


def graph(s: dict[str, Any]) -> str:
    """The directed graph as SVG, drawn by the function that reports use, with the colours written into it."""
    vae = s["bent"].vae
    of = [name_of(part.family) for part in (vae.latents.prior, vae.latents.posterior, vae.likelihood)]
    svg = str(drawing(["z"], ["1"], *of, False))
    root = re.search(r":root \{.*?\}", CSS, flags=re.DOTALL)
    assert root is not None
    colours = dict(re.findall(r"(--[\w]+): (#\w+)", root[0]))
    rules = "\n".join(rule for rule in CSS.splitlines() if rule.startswith(".graph") and "max-width" not in rule)
    rules = "path{fill:none}\n" + rules  # in a report, a rule for all charts
    for name, colour in colours.items():
        rules = rules.replace(f"var({name})", colour)
    x, y, width, height = -16, -6, 372, 372
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{x} {y} {width} {height}" font-family="sans-serif"'
    paper = f'<style>{rules}</style><rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{PAPER}"/>'
    return re.sub(r"^<svg viewBox=\"[^\"]*\"([^>]*)>", rf"{head}\1>{paper}", svg)


FIGURES: dict[str, Callable[[dict[str, Any]], Figure]] = {
    "pools": pools, "integral": integral, "map": map_, "em": em, "bayes": bayes, "montecarlo": montecarlo,
    "bound": bound_, "families": families,
}  # fmt: skip


def main() -> None:
    """Draw all figures."""
    folder = DOCS / "understand"
    folder.mkdir(exist_ok=True)
    s = page()
    (folder / "graph.svg").write_text(graph(s) + "\n", encoding="utf-8")
    with plt.rc_context(STYLE):
        for name, draw in FIGURES.items():
            drawn = io.BytesIO()
            draw(s).savefig(drawn)
            plt.close("all")
            Image.open(drawn).convert("RGB").save(
                folder / f"{name}.png", optimize=True
            )  # a third smaller without alpha
            print(f"{folder / name}.png", flush=True)


if __name__ == "__main__":
    main()
