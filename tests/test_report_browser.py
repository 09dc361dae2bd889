"""report.html in a headless Chromium: no sideways scrolling, nothing fetched, light and dark, on paper."""

import json
import re
import shutil
import subprocess
import threading
import zlib
from collections.abc import Iterator
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colours import TEXT, contrast, luminance
from evaluation_fixture import make, run
from PIL import Image

from rcfast.eval import report
from rcfast.eval.outputs import drawing

WIDTHS = (320, 360, 390, 768, 1280)
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
DARK = "--blink-settings=preferredColorScheme=0"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine"),
]

# The page around the report looks into it: the report itself runs no script.
PROBE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><pre id="found"></pre><script>
const widths = %s;
const frames = widths.map((width) => {
  const frame = document.createElement("iframe");
  frame.style = `border:0;width:${width}px;height:900px`;
  frame.src = "report.html";
  document.body.append(frame);
  return frame;
});
// Every pair of colours that some text has: its own, and the first painted one behind it.
const clear = "rgba(0, 0, 0, 0)";
const pairs = (page, view) => {
  const found = new Set();
  for (const node of page.body.querySelectorAll("*:not(svg *, title, style)")) {
    if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) continue;
    let back = node;
    while (back && view.getComputedStyle(back).backgroundColor === clear) back = back.parentElement;
    found.add(`${view.getComputedStyle(node).color} on ${back ? view.getComputedStyle(back).backgroundColor : clear}`);
  }
  return [...found].sort();
};
// What is printed, in the reader's mode: the print rules count as well, as on paper.
const print = (page, view) => {
  for (const sheet of page.styleSheets)
    for (const rule of sheet.cssRules)
      if (rule.media && rule.media.mediaText === "print") rule.media.mediaText = "all";
  const style = view.getComputedStyle(page.body);
  return {
    paper: style.backgroundColor, ink: style.color, pairs: pairs(page, view),
    scheme: view.getComputedStyle(page.documentElement).colorScheme,
    nav: view.getComputedStyle(page.querySelector("nav")).display,
  };
};
addEventListener("load", () => {
  document.getElementById("found").textContent = JSON.stringify(frames.map((frame, index) => {
    const page = frame.contentDocument, view = frame.contentWindow;
    const style = view.getComputedStyle(page.body);
    const boxes = [...page.querySelectorAll(".scroll")];
    const chart = page.querySelector("#figure4 svg");
    return {
      width: widths[index],
      page: page.scrollingElement.scrollWidth,
      paper: style.backgroundColor,
      ink: style.color,
      chart: chart ? view.getComputedStyle(chart).color : null,
      fetched: view.performance.getEntriesByType("resource").map((entry) => entry.name)
        .filter((name) => !name.startsWith("data:")),
      wide: boxes.map((box) => [box.scrollWidth, box.clientWidth, box.getAttribute("aria-label")]),
      spilt: [...page.querySelectorAll("th, td")].filter((cell) => cell.scrollWidth > cell.clientWidth + 1)
        .map((cell) => cell.textContent),
      small: [...page.querySelectorAll("p, li, td, th, figcaption, dt, dd")].filter((node) =>
        node.textContent.trim() && parseFloat(view.getComputedStyle(node).fontSize) < 12).length,
      bold: page.querySelectorAll("article th b").length,
      headings: page.querySelectorAll("h1").length,
      charts: [...page.querySelectorAll("figure svg")].map((svg) => svg.getBoundingClientRect().width),
      pairs: pairs(page, view),
      print: print(page, view),  // last: it changes the page
    };
  }));
});
</script>"""


class _Handler(SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, format: str, *args: Any) -> None:
        self.asked.append(self.path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("browser")
    long_name = "<b>ensemble</b>_of_" + "very_" * 12 + "long_names"
    report.write(make(out, user_defences=(long_name,)), out, run())
    (out / "probe.html").write_text(PROBE % json.dumps(WIDTHS))
    return out


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(address, paths that were asked for) of a server on this machine that has the report."""
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


def _browse(home: Path, *arguments: str) -> str:
    """Run the browser with an empty profile and return what it prints."""
    assert BROWSER is not None
    command = [BROWSER, *FLAGS, f"--user-data-dir={home}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def _probe(home: Path, address: str, *flags: str) -> list[dict[str, Any]]:
    page = _browse(home, *flags, "--dump-dom", f"{address}/probe.html")
    found = re.search(r'<pre id="found">(.+?)</pre>', page, re.DOTALL)
    assert found is not None, page[-2000:]
    seen: list[dict[str, Any]] = json.loads(unescape(found[1]))
    return seen


@pytest.fixture(scope="module")
def light(site: tuple[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return _probe(tmp_path_factory.mktemp("light"), site[0])


@pytest.fixture(scope="module")
def dark(site: tuple[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return _probe(tmp_path_factory.mktemp("dark"), site[0], DARK)


@pytest.mark.parametrize("index", range(len(WIDTHS)), ids=map(str, WIDTHS))
def test_the_page_never_scrolls_sideways(light: list[dict[str, Any]], index: int) -> None:
    seen = light[index]
    assert seen["page"] == seen["width"]
    assert all(0 < chart <= seen["width"] for chart in seen["charts"])
    assert len(seen["wide"]) == 11  # ten tables and the times
    if seen["width"] <= 390:
        assert any(content > box for content, box, _ in seen["wide"]), "wide tables scroll in their box"
    assert seen["small"] == 0, "no running text below 12 pixels"


@pytest.mark.parametrize("index", range(len(WIDTHS)), ids=map(str, WIDTHS))
def test_no_text_spills_into_the_next_cell(light: list[dict[str, Any]], index: int) -> None:
    assert light[index]["spilt"] == []


def test_light_and_dark_have_one_layout(light: list[dict[str, Any]], dark: list[dict[str, Any]]) -> None:
    for day, night in zip(light, dark, strict=True):
        assert all(day[name] == night[name] for name in ("page", "wide", "spilt", "small", "charts"))


def test_a_desktop_shows_whole_tables_and_large_figures(
    tmp_path_factory: pytest.TempPathFactory, site: tuple[str, list[str]], folder: Path
) -> None:
    """The paper's four defences stand side by side; text in figures, 13 of their 480 pixels, is not below 10."""
    plain = folder / "plain"
    plain.mkdir()
    report.write(make(plain), plain, run())
    (plain / "probe.html").write_text(PROBE % json.dumps([1280]))
    (seen,) = _probe(tmp_path_factory.mktemp("desktop"), f"{site[0]}/plain")
    assert [label for content, box, label in seen["wide"] if content > box] == []
    assert min(seen["charts"]) >= 370


def test_nothing_is_fetched(site: tuple[str, list[str]], light: list[dict[str, Any]]) -> None:
    assert all(seen["fetched"] == [] for seen in light)
    assert {Path(path.partition("?")[0]).name for path in site[1]} == {"probe.html", "report.html"}


def test_names_stay_text(light: list[dict[str, Any]]) -> None:
    assert all(seen["bold"] == 0 and seen["headings"] == 1 for seen in light)


def test_light_and_dark_are_legible(light: list[dict[str, Any]], dark: list[dict[str, Any]]) -> None:
    assert luminance(light[0]["paper"]) > 0.9
    assert luminance(dark[0]["paper"]) < 0.05
    for seen in (light[0], dark[0]):
        assert contrast(seen["paper"], seen["ink"]) > 10
        assert seen["chart"] == seen["ink"], "figures take the ink of the page"


def test_all_text_is_legible(light: list[dict[str, Any]], dark: list[dict[str, Any]]) -> None:
    for seen in (light[0], dark[0], light[0]["print"], dark[0]["print"]):
        assert len(seen["pairs"]) >= 6
        for pair in seen["pairs"]:
            ink, back = pair.split(" on ")
            assert contrast(ink, back) >= TEXT, pair


def test_print_is_ink_on_white_in_dark_mode_too(
    light: list[dict[str, Any]], dark: list[dict[str, Any]]
) -> None:
    assert dark[0]["print"] == light[0]["print"]
    assert dark[0]["print"]["paper"] == "rgb(255, 255, 255)"
    assert dark[0]["print"]["ink"] == "rgb(0, 0, 0)"
    assert dark[0]["print"]["scheme"] == "light"
    assert dark[0]["print"]["nav"] == "none", "the print rules are in force"


def test_a_standalone_figure_follows_the_theme(tmp_path: Path, folder: Path) -> None:
    plot = drawing.build({**make(), "outputs": ["figure8"]}, folder)["figure8"]
    (tmp_path / "figure.svg").write_bytes(drawing.render(plot.panels, "x", endings=("svg",))["svg"])
    shades = []
    for name, flags in (("day", ()), ("night", (DARK,))):
        shot = tmp_path / f"{name}.png"
        view = ("--window-size=600,500", "--default-background-color=00000000", f"--screenshot={shot}")
        _browse(tmp_path / name, *flags, *view, (tmp_path / "figure.svg").as_uri())
        with Image.open(shot) as image:
            pixels = np.asarray(image.convert("RGBA")).reshape(-1, 4).astype(int)
        grey = (pixels[:, 3] > 150) & (np.ptp(pixels[:, :3], axis=1) < 20)
        assert grey.sum() > 100
        shades.append(float(pixels[grey, :3].mean()))
    assert shades[0] < 80, "dark ink by day"
    assert shades[1] > 200, "light ink by night"


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def test_it_prints(tmp_path: Path, folder: Path) -> None:
    pdf = tmp_path / "report.pdf"
    address = (folder / "report.html").as_uri()
    _browse(tmp_path / "home", DARK, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", address)
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 30
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL)
    painted = b"\n".join(_inflated(stream) for stream in streams)
    fills = {tuple(map(float, fill)) for fill in re.findall(rb"([\d.]+) ([\d.]+) ([\d.]+) rg\b", painted)}
    css = Path(report.__file__).with_name("report.css").read_text(encoding="utf-8")
    light, dark, paper = (
        set(re.findall(r"#\w{6}", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    )
    only_dark = {tuple(round(v / 255, 4) for v in bytes.fromhex(c[1:])) for c in dark - light - paper}
    assert len(only_dark) > 8
    assert fills >= {(0.0, 0.0, 0.0), (1.0, 1.0, 1.0)}, "ink and paper"
    assert not fills & only_dark, "the reader's dark mode does not reach the paper"
