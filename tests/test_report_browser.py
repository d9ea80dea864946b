"""The report in a browser: it fits a phone, makes no requests, and is readable in light and dark mode."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ladle

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")

# Text whose contrast with its background is below 4.5 (WCAG AA).
FAINT = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const light = c => parse(c).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if ((parse(c)[3] ?? 1) > 0) return c;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const style = getComputedStyle(e), svg = e instanceof SVGElement;
    const [a, b] = [light(svg ? style.fill : style.color), light(behind(svg ? e.ownerSVGElement : e))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push(e.textContent.slice(0, 30) + " " + contrast.toFixed(2));
  }
  return found;
}"""
# Elements that extend beyond the window, except those inside a box that scrolls.
OUTSIDE = """() => [...document.querySelectorAll("body *")]
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest("pre, .wide, svg"))
  .map(e => e.tagName + " " + e.textContent.slice(0, 40))"""
SMALLEST = """() => Math.min(...[...document.querySelectorAll("body *")]
  .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
  .map(e => parseFloat(getComputedStyle(e).fontSize)
            * (e.ownerSVGElement ? e.ownerSVGElement.getScreenCTM().a : 1)))"""


@pytest.fixture(scope="module")
def page_of_digits(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = shutil.copytree(digits_run, tmp_path_factory.mktemp("browser") / "run")
    return ladle.report(run, quick=True).path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_it_can_be_read(browser: Any, page_of_digits: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_of_digits.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(FAINT) == []
    assert page.evaluate(SMALLEST) >= 10
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page_of_digits.as_uri()]
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(paper[4:-1].split(",")[0]) < 60) == (scheme == "dark")
    context.close()


@pytest.mark.parametrize("planted, script", [
    ('<p style="width:900px">wide</p>', OUTSIDE),
    ('<p style="color:#bbb">faint</p>', FAINT),
])  # fmt: skip
def test_faults_are_found(browser: Any, page_of_digits: Path, planted: str, script: str) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 800}, color_scheme="light")
    page.set_content(page_of_digits.read_text(encoding="utf-8").replace("</body>", f"{planted}</body>"))
    assert page.evaluate(script)
    page.set_content("<p style='font-size:7px'>small</p>")
    assert page.evaluate(SMALLEST) == 7
    page.close()
