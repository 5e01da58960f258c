"""How photographs are inspected; importing this module does not import torch."""

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from afr_clip.settings import DecideBy, ScoringEngine, not_negative, positive, refuse

EXPORTED = (".onnx", ".xml")
"""What the name of a file ends in that ``afr-clip export`` wrote."""

HINTS_NEED_TEXT = (
    "defects are words, which need a text tower, and this model's backbone has none. Leave defects out, or use a model "
    "whose backbone has text."
)
"""The refusal of words for defects where no text tower can read them."""


def is_exported(name: str | Path) -> bool:
    """Whether a checkpoint is a file that ``afr-clip export`` wrote."""
    return Path(name).suffix in EXPORTED


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
        compare_names: Other names, under each of which a photograph gets a second image score.
        engine: What computes the forward pass.
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
    compare_names: list[str] | None = None
    engine: ScoringEngine = ScoringEngine.torch

    def __post_init__(self) -> None:
        self.engine = ScoringEngine(self.engine)
        is_word = isinstance(self.tile, str)
        refuse(
            f"tile must be auto, a number of pixels, or null, got {self.tile}. Write tile=auto."
            if is_word and self.tile != "auto"
            else None,
            None if is_word else positive("tile", self.tile),  # type: ignore[arg-type]
            None if 0 <= self.overlap < 1 else f"overlap must be from 0 to below 1, got {self.overlap}. Try 0.25.",
            positive("mm_per_pixel", self.mm_per_pixel),
            not_negative("min_area_mm2", self.min_area_mm2 or 0.0),
            *(
                f"{key} must be finite, got {value}. Change {key}=VALUE."
                for key, value in (("mm_per_pixel", self.mm_per_pixel), ("min_area_mm2", self.min_area_mm2))
                if value == math.inf
            ),
            "min_area_mm2 needs the size of a pixel, got no mm_per_pixel. Add mm_per_pixel=VALUE."
            if self.min_area_mm2 is not None and self.mm_per_pixel is None
            else None,
            None
            if self.region_threshold is None or 0 < self.region_threshold <= 1
            else f"region_threshold must be above 0 and up to 1, got {self.region_threshold}. Maps lie in [0, 1].",
            None
            if self.defects is None or len(set(filter(str.strip, self.defects))) > 1
            else f"defects must be two words or more to choose from, got {self.defects}. Write defects=[scratch,dent].",
            None
            if self.compare_names is None or _are_names(self.compare_names)
            else f"compare_names must be different words, got {self.compare_names}. Write compare_names=[object].",
            "compare_names compares scores of whole photographs, got tile, roi or ignore too. Leave one of them out."
            if self.compare_names is not None and (self.tile, self.roi, self.ignore) != (None, None, None)
            else None,
            "compare_names works only with engine=torch, got another. Leave out compare_names= or engine=."
            if self.compare_names is not None and self.engine is not ScoringEngine.torch
            else None,
            "region_threshold and calibration exclude each other, got both. A calibration brings its own threshold."
            if self.region_threshold is not None and self.calibration is not None
            else None,
        )


def _are_names(names: list[str]) -> bool:
    return 0 < len(set(filter(str.strip, names))) == len(names)


@dataclass(frozen=True)
class Rule:
    """How thresholds are found: by the budget of false alarms, unless ``escape`` or ``best_f1`` says otherwise.

    Attributes:
        decide_by: ``either`` gives half of the budget to each of the two scores, so that the bound stays.
        undecided: The confidence of the band around the threshold within which a part is undecided; ``None`` for none.
        escape: The share of bad parts that may be missed.
        best_f1: Whether the threshold is that of the highest F1 of the good and bad parts, which bounds nothing.
    """

    decide_by: DecideBy = DecideBy.image
    undecided: float | None = None
    escape: float | None = None
    best_f1: bool = False

    def __post_init__(self) -> None:
        given = [key for key in ("escape", "best_f1", "undecided") if getattr(self, key)]
        refuse(
            *(share(key, getattr(self, key)) for key in ("undecided", "escape")),
            f"{given[0]} and {given[1]} exclude each other, got both. Leave one out." if len(given) > 1 else None,
            "best_f1 finds the threshold of one score, got decide_by=either. Write decide_by=image or decide_by=region."
            if self.best_f1 and self.decide_by is DecideBy.either
            else None,
        )

    def budget(self, false_alarms: float) -> Fraction:
        """Return the budget of one score."""
        return Fraction(str(false_alarms)) / (2 if self.decide_by is DecideBy.either else 1)


def share(key: str, value: float | None) -> str | None:
    """Describe what is wrong with a share that is not between 0 and 1."""
    if value is None or 0 < value < 1:
        return None
    return f"{key} must lie between 0 and 1, got {value}. For one percent write {key}=0.01."


def num_needed(budget: float | Fraction) -> int:
    """Return how many parts a budget needs.

    Example:
        >>> num_needed(0.01), num_needed(0.05)
        (99, 19)
    """
    return math.ceil(1 / Fraction(str(budget))) - 1
