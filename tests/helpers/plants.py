"""One planted fault for each pitfall of public datasets.

Every function takes pairs of an image and its mask (``None`` where there is none) of any layout, changes the last pair
and returns the file that is now wrong.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from afr_clip.data.disk.decode import decode_image

Pair = tuple[Path, Path | None]

LARGE = 1100
"""Side of an image in which one pixel is lost at 518 and less."""


def plant_missing_image(pairs: Sequence[Pair]) -> Path:
    """Remove an image and its mask, so that counts change."""
    image, mask = pairs[-1]
    image.unlink()
    if mask is not None:
        _only_file(mask).unlink()
        if mask.is_dir():
            mask.rmdir()
    return image


def plant_empty_mask(pairs: Sequence[Pair]) -> Path:
    """Mark nothing on an anomalous image."""
    image, mask = pairs[-1]
    return _write_mask(mask, np.zeros(_size(image), dtype=np.uint8))


def plant_marked_normal(pairs: Sequence[Pair]) -> Path:
    """Mark half of a normal image; its mask need not exist yet."""
    image, mask = pairs[-1]
    values = np.zeros(_size(image), dtype=np.uint8)
    values[: len(values) // 2] = 255
    return _write_mask(mask, values)


def plant_mask_of_another_size(pairs: Sequence[Pair]) -> Path:
    """Give a mask more rows and columns than its image."""
    image, mask = pairs[-1]
    height, width = _size(image)
    return _write_mask(mask, np.full((height + 3, width + 5), 255, dtype=np.uint8))


def plant_renamed_mask(pairs: Sequence[Pair]) -> Path:
    """Rename a mask, so that no image has its stem."""
    mask = pairs[-1][1]
    return mask.rename(mask.with_name(f"other-{mask.name}"))


def plant_duplicate(pairs: Sequence[Pair]) -> Path:
    """Replace the last pair by a copy of the first; counts stay."""
    (source, source_mask), (target, target_mask) = pairs[0], pairs[-1]
    shutil.copyfile(source, target)
    if source_mask is not None and target_mask is not None:
        for part in [source_mask] if source_mask.is_file() else source_mask.iterdir():
            shutil.copyfile(part, target_mask / part.name if target_mask.is_dir() else target_mask)
    return target


def plant_vanishing_defect(pairs: Sequence[Pair]) -> Path:
    """Make a large image whose only anomalous pixel is lost when it is resized."""
    image, mask = pairs[-1]
    pixels = decode_image(image).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).resize((LARGE, LARGE)).save(image)
    values = np.zeros((LARGE, LARGE), dtype=np.uint8)
    values[0, 0] = 255
    return _write_mask(mask, values)


def plant_broken_mask(pairs: Sequence[Pair]) -> Path:
    """Cut a mask off after its first bytes."""
    return _cut(_only_file(pairs[-1][1]))


def plant_broken_image(pairs: Sequence[Pair]) -> Path:
    """Cut an image off after its first bytes."""
    return _cut(pairs[-1][0])


def _size(image: Path) -> tuple[int, int]:
    height, width = decode_image(image).shape[1:]
    return height, width


def _only_file(mask: Path) -> Path:
    """Return the file of a mask; of a folder of masks all but one are removed."""
    if not mask.is_dir():
        return mask
    first, *others = sorted(mask.iterdir())
    for other in others:
        other.unlink()
    return first


def _write_mask(mask: Path, values: np.ndarray) -> Path:
    mask = _only_file(mask)
    mask.parent.mkdir(parents=True, exist_ok=True)
    # A JPEG of lower quality would spread or lose a single pixel; other formats do not know the option.
    Image.fromarray(values).save(mask, quality=100)
    return mask


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:20])
    return path
