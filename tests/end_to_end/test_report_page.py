"""The report of two small runs in a real browser: no error, every figure, nothing wider than the screen."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from html import unescape
from pathlib import Path

import pytest
import report

import train

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# What a reader would do, and what the page looks like then, told to the frame that the page is in.
PROBE = """
<script>
const found = {width: document.documentElement.scrollWidth, inner: innerWidth, empty: []};
for (const shown of document.querySelectorAll("figure svg, figure table")) {
  const box = shown.getBoundingClientRect();
  const seen = shown.closest("details:not([open])") !== null || box.width * box.height > 3000;
  if (!seen) found.empty.push(shown.outerHTML.slice(0, 200));
}
found.figures = document.querySelectorAll("figure").length;
const press = (target, key, held) =>
  target.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true, ...held}));
const told = (shown) => shown.closest("figure").querySelector(".readout").textContent;
const cell = document.querySelector(".heat td[tabindex='0']");
cell.focus();
press(cell, "ArrowRight");
found.heat = told(cell);
press(document.activeElement, "ArrowDown");
found.below = told(cell);
found.left = [{altKey: true}, {ctrlKey: true}, {metaKey: true}].every(
  (held) => press(document.activeElement, "ArrowLeft", held));
found.left &&= told(cell) === found.below;
found.paper = getComputedStyle(document.body).backgroundColor;
document.activeElement.blur();
scrollTo(0, 0);
parent.postMessage(JSON.stringify(found), "*");
</script>
"""
FRAME = """<!DOCTYPE html><body style="margin:0"><pre id="told"></pre>
<iframe src="page.html" style="display:block;border:0;width:WIDTHpx;height:9000px"></iframe>
<script>onmessage = (event) => { document.getElementById("told").textContent = event.data; }</script></body>
"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser to open the page in: none of {', '.join(BROWSERS)} is installed")
    return found


@pytest.fixture(scope="module")
def page(browser, tiny, text_dir, tmp_path_factory) -> Path:
    """The report of a plain and a G2 run."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for gate in ("gumbel", "sigmoid"):
            small = [*tiny, "data.min_count=2", "finetune=false", "eval.cache.enabled=false"]
            assert train.main([*small, f"gate={gate}", f"run_dir=runs/two/{gate}"]) == 0
        assert report.report(["runs=runs/two/*", "out=report.html", "text=w1 zebra w3 an-unusually-long-word w4"]) == 0
    return folder / "report.html"


def opened(browser: str, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What the browser says after it has drawn the page; its own folder is thrown away."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [browser, "--headless", "--disable-gpu", "--no-first-run", "--enable-logging=stderr", "--hide-scrollbars"]
        command += ["--virtual-time-budget=3000", f"--user-data-dir={folder}", *options, page.as_uri()]
        if os.geteuid() == 0:
            command.insert(1, "--no-sandbox")
        return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)


# preferredColorScheme: 0 is dark, 1 is light.
@pytest.mark.parametrize(("width", "scheme", "paper"), [(400, 1, "rgb(255, 255, 255)"), (1400, 0, "rgb(20, 23, 27)")])
def test_a_telephone_and_a_dark_desk_show_every_figure_without_an_error(
    width, scheme, paper, browser, page, tmp_path
) -> None:
    content = page.read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(content.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    frame = tmp_path / "frame.html"  # a browser's window has a least width, a frame in it has none
    frame.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")

    colours = f"--blink-settings=preferredColorScheme={scheme}"
    result = opened(browser, frame, "--dump-dom", f"--window-size={width},1000", colours)
    assert "CONSOLE" not in result.stderr, result.stderr
    found = json.loads(unescape(re.search(r'<pre id="told">(.*?)</pre>', result.stdout, re.DOTALL)[1]))
    assert found["figures"] == content.count("<figure>") == 7
    assert found["empty"] == []
    assert found["inner"] == width
    assert found["width"] <= width
    assert re.fullmatch(r"zebra\*: plain LSTM.*, input gate 0\.\d{4}", found["heat"])
    assert re.fullmatch(r"zebra\*: plain LSTM.*, forget gate 0\.\d{4}", found["below"])
    assert found["left"]  # to the browser
    assert found["paper"] == paper

    shutil.copy(page, tmp_path / "page.html")
    picture = tmp_path / "page.png"
    opened(browser, frame, f"--screenshot={picture}", f"--window-size={width},3000", colours)
    assert int.from_bytes(picture.read_bytes()[20:24], "big") == 3000
    assert picture.stat().st_size > 30_000
