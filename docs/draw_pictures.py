"""Draw the pictures of the README and the gallery from a run of pocket on ``dataset=demo_unseen``.

Every picture shows drawn specimens: the photographs of public datasets may not be redistributed.

    afr-clip evaluate checkpoint=src/afr_clip/pocket/demo.ckpt dataset=demo_unseen save_maps=true run_dir=RUN
    python docs/draw_pictures.py RUN
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from afr_clip.reports.pictures.overlays import laid_over

IMAGES = Path(__file__).parent / "images"
README_COLUMNS = (
    ("brick", "good"), ("biscuit", "crack"), ("leather", "cut"), ("weave", "hole"), ("marble", "stain"),
    ("capsule", "dent"), ("label", "misprint"),
)  # fmt: skip
ROWS = ("picture", "truth", "heat map")
GUTTER, HEADING = 62, 20
GAP = 4


def main(run: Path) -> None:
    root = Path(json.loads((run / "manifest.json").read_text(encoding="utf-8"))["targets"]["demo_unseen"]["root"])
    with (run / "scores.csv").open(encoding="utf-8", newline="") as file:
        scores = {root / row["image"]: float(row["image_score"]) for row in csv.DictReader(file)}
    # The first specimen of each kind, so that nothing is picked for its looks.
    first = {(path.parts[-4], path.parts[-2]): path for path in sorted(scores, reverse=True)}
    draw_sheet(IMAGES / "readme.jpg", run, [(first[key], f"{key[0]}, {key[1]}") for key in README_COLUMNS], 132, 86)
    for category in sorted({category for category, _ in first}):
        kinds = sorted((kind for name, kind in first if name == category), key=lambda kind: (kind != "good", kind))
        columns = [
            (first[category, kind], f"{kind.replace('_', ' ')}  {scores[first[category, kind]]:.2f}") for kind in kinds
        ]
        draw_sheet(IMAGES / f"gallery_{category}.jpg", run, columns, 160, 84)


def draw_sheet(path: Path, run: Path, columns: list[tuple[Path, str]], side: int, quality: int) -> None:
    """Draw a column per specimen: the picture, its ground truth, the heat map laid over it."""
    size = (GUTTER + len(columns) * (side + GAP), HEADING + len(ROWS) * (side + GAP))
    sheet, font = Image.new("RGB", size, "white"), ImageFont.load_default(size=12)
    write = ImageDraw.Draw(sheet)
    for row, name in enumerate(ROWS):
        write.text((GUTTER - 8, HEADING + row * (side + GAP) + side / 2), name, fill="black", font=font, anchor="rm")
    for column, (image, title) in enumerate(columns):
        left = GUTTER + column * (side + GAP)
        write.text((left + side / 2, HEADING / 2), title, fill="black", font=font, anchor="mm")
        for row, tile in enumerate(tiles(run, image)):
            sheet.paste(tile.resize((side, side), Image.Resampling.LANCZOS), (left, HEADING + row * (side + GAP)))
    sheet.save(path, quality=quality, optimize=True)
    print(f"{path}  {path.stat().st_size // 1000} kB")


def tiles(run: Path, image: Path) -> tuple[Image.Image, Image.Image, Image.Image]:
    """Return the picture, its ground truth and its heat map at the picture's size."""
    place = Path("demo_unseen", *image.parts[-4:-3], image.parts[-2], image.name)
    picture = Image.open(image).convert("RGB")
    saved = np.asarray(Image.open(run / "maps" / place), dtype=np.float32) / 65535
    anomaly_map = np.asarray(Image.fromarray(saved).resize(picture.size, Image.Resampling.BILINEAR))
    mask = run / "masks" / place
    truth = (
        Image.open(mask).convert("L").point(lambda value: 255 * (value > 0))
        if mask.exists()
        else Image.new("L", picture.size)
    )
    return picture, truth.convert("RGB"), Image.fromarray(laid_over(np.asarray(picture), anomaly_map))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
