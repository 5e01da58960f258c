"""What is known of one photograph once it is inspected; every writer of a format takes a stream of these."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from afr_clip.inspection.calibration import Decision
from afr_clip.inspection.regions import Region


@dataclass(frozen=True)
class Inspected:
    """One photograph and what was found on it.

    Attributes:
        image: Its path below the folder of photographs, as `shown` gives it.
        width: In pixels, as a viewer shows the photograph: the EXIF orientation is applied.
        image_score: From 0 to 1; not a calibrated probability.
        threshold: Above it, the score that decides is anomalous; ``None`` without calibration, as the next two.
        calibrated: The score that decides, on a scale where its threshold lies at 0.5.
        regions: The highest peak first.
        by_name: The image score under each other name that was asked for.
    """

    image: str
    width: int
    height: int
    category: str
    image_score: float
    threshold: float | None
    decision: Decision | None
    calibrated: float | None
    regions: tuple[Region, ...]
    by_name: Mapping[str, float] = field(default_factory=dict)

    @property
    def area_px(self) -> int:
        """Of all regions together."""
        return sum(region.area_px for region in self.regions)

    @property
    def area_mm2(self) -> float | None:
        """Of all regions together; ``None`` if the size of a pixel is unknown, or there is no region."""
        areas = [region.area_mm2 for region in self.regions if region.area_mm2 is not None]
        return math.fsum(areas) if areas else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "image": self.image,
            "width": self.width,
            "height": self.height,
            "category": self.category,
            "image_score": self.image_score,
            "threshold": self.threshold,
            "decision": None if self.decision is None else self.decision.value,
            "calibrated": self.calibrated,
            "regions": [region.to_dict() for region in self.regions],
            **({"by_name": dict(self.by_name)} if self.by_name else {}),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Inspected":
        """Read what `to_dict` returned."""
        decision, regions = content["decision"], content["regions"]
        return cls(
            **{
                **content,
                "decision": None if decision is None else Decision(decision),
                "regions": tuple(map(Region.from_dict, regions)),
            }
        )
