"""Photograph the page of `afr-clip demo` at three widths, with drawn pictures; needs Chromium and Playwright.

afr-clip demo --device cpu
python docs/draw_demo.py http://127.0.0.1:7860
"""

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from drawn_anomalies.catalogue import CATEGORIES
from drawn_anomalies.kinds import GOOD
from drawn_anomalies.settings import DrawnSet, DrawnSettings
from drawn_anomalies.tree import Picture, draw

IMAGES = Path(__file__).parent / "images"
WINDOWS = {390: 2300, 820: 1900, 1280: 1100}
"""Height by width."""

NUM_GOOD = 19
THING = "biscuit"


def main(address: str) -> None:
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        photographs, good = draw_parts(Path(folder))
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for width, height in WINDOWS.items():
            page = chromium.new_page(viewport={"width": width, "height": height})
            page.goto(address)
            visit(page, photographs, good, compares=width > 390)
            path = IMAGES / f"demo_{width}.jpg"
            page.screenshot(path=path, type="jpeg", quality=80)
            print(f"{path}  {path.stat().st_size // 1000} kB")
        chromium.close()


def visit(page: Page, photographs: list[Path], good: list[Path], *, compares: bool) -> None:
    """Calibrate with good parts, then inspect photographs, with two models or one."""
    for place, files in (("photographs", photographs), ("good", good)):
        if place == "good":
            page.get_by_role("button", name="Calibrate with good parts").click()
        page.locator(f"#{place} input[type=file]").set_input_files(files)
        page.locator(f"#{place} a[href]").nth(len(files) - 1).wait_for(state="attached")
    page.get_by_label("What they show").fill(THING)
    if compares:
        page.get_by_label("Compare with").click()
        page.get_by_role("option", name="pocket_names").click()
    for half in ("first", "second") if compares else ("first",):
        page.locator(f"#{half}").wait_for()
    for button in ("calibrate", "inspect"):
        page.click(f"#{button}")
        for half in ("first", "second") if compares else ("first",):
            words = "The next good part" if button == "calibrate" else f"{len(photographs)} photographs:"
            page.locator(f"#{half}-found", has_text=words).wait_for()
    page.get_by_role("button", name="Calibrate with good parts").click()
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(1500)  # for the pictures


def draw_parts(folder: Path) -> tuple[list[Path], list[Path]]:
    settings = DrawnSettings(DrawnSet.unseen, NUM_GOOD + 4, 256, 1.6, 0.3, 0.012, seed=1)
    number = next(i for i, one in enumerate(CATEGORIES[DrawnSet.unseen]) if one.name == THING)
    kinds = (GOOD, *CATEGORIES[DrawnSet.unseen][number].defects)

    def drawn(kind: str, specimen: int) -> Path:
        path = folder / f"{kind}_{specimen}.png"
        Image.fromarray(draw(settings, Picture(number, "test", kind, specimen))[0]).save(path)
        return path

    photographs = [drawn(kind, specimen) for kind in kinds for specimen in range(2)]
    return photographs, [drawn(GOOD, specimen) for specimen in range(4, 4 + NUM_GOOD)]


if __name__ == "__main__":
    main(sys.argv[1])
