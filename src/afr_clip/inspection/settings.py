"""How photographs are inspected; importing this module does not import torch."""

from dataclasses import dataclass

from afr_clip.settings import not_negative, positive, refuse


@dataclass
class InspectionSettings:
    """``inspection``: what is looked at, and what makes a region.

    Attributes:
        tile: Side of tiles in pixels of the photograph, ``auto``, or ``None`` for none.
        overlap: Smallest share of a tile that the next one shows again.
        roi: A picture, or a folder with one for each photograph: only what is white in it is looked at.
        ignore: Likewise; what is white in it is not looked at.
        references: A folder of good parts, or ``None`` for zero-shot.
        calibration: A ``calibration.json``, which brings thresholds and a decision.
        region_threshold: Map value from which a region begins, without a calibration; ``None`` finds no regions.
        mm_per_pixel: Size of a pixel of the photograph.
        min_area_mm2: Regions smaller than this are left out.
        defects: Words for defects, of which each region gets the nearest as a hint.
    """

    tile: int | str | None
    overlap: float
    roi: str | None
    ignore: str | None
    references: str | None
    calibration: str | None
    region_threshold: float | None
    mm_per_pixel: float | None
    min_area_mm2: float | None
    defects: list[str] | None

    def __post_init__(self) -> None:
        is_word = isinstance(self.tile, str)
        refuse(
            f"tile must be auto, a number of pixels, or null, got {self.tile}. Write tile=auto."
            if is_word and self.tile != "auto"
            else None,
            None if is_word else positive("tile", self.tile),  # type: ignore[arg-type]
            None if 0 <= self.overlap < 1 else f"overlap must be from 0 to below 1, got {self.overlap}. Try 0.25.",
            positive("mm_per_pixel", self.mm_per_pixel),
            not_negative("min_area_mm2", self.min_area_mm2 or 0.0),
            "min_area_mm2 needs the size of a pixel, got no mm_per_pixel. Add mm_per_pixel=VALUE."
            if self.min_area_mm2 is not None and self.mm_per_pixel is None
            else None,
            None
            if self.region_threshold is None or 0 < self.region_threshold <= 1
            else f"region_threshold must be above 0 and up to 1, got {self.region_threshold}. Maps lie in [0, 1].",
            "region_threshold and calibration exclude each other, got both. A calibration brings its own threshold."
            if self.region_threshold is not None and self.calibration is not None
            else None,
        )
