"""The settings of a drawn dataset; importing this module draws nothing."""

from dataclasses import dataclass
from enum import Enum

SMALLEST = 32
"""Pixels below which a defect has none left to be seen in."""


LARGEST_SCALE = 3.0
"""Factor beyond which defects cover more than there is."""

LARGEST_DEMAND = 0.5
"""Contrast or area that no kind of defect reaches."""


FEWEST_OF_A_NAME = 6
"""Fewest images of a category whose name decides: two good, two good under the partner's name, and two others."""


class DrawnSet(Enum):
    """Which categories are drawn.

    ``auxiliary`` and ``unseen`` share none, and the unseen set has its own defects. In ``names`` and ``names_unseen``
    the name of a category decides what is a flaw; they share words but no names. ``auxiliary_and_names`` has the
    categories of both training sets.
    """

    auxiliary = "auxiliary"
    unseen = "unseen"
    names = "names"
    names_unseen = "names_unseen"
    auxiliary_and_names = "auxiliary_and_names"


@dataclass
class DrawnSettings:
    """A dataset that is drawn instead of downloaded.

    Attributes:
        categories: Which categories.
        images_per_category: Test images of each; half of them normal, the others spread over the category's defects.
            Where the name decides, a third is normal, and as many are normal under another name. In
            ``auxiliary_and_names`` such categories, which are many, have ``FEWEST_OF_A_NAME``.
        defect_scale: Factor on all lengths of a defect. At 1.6 the median defect covers 4 % of the picture, as those of
            MVTec AD's bottles.
        least_contrast: Mean difference that a defect makes to its pixels at least, in parts of full brightness; as far
            as the kind of defect allows.
        least_area: Share of the picture that it covers at least, likewise.
        seed: Another seed gives other pictures throughout.

    Raises:
        ValueError: If there are fewer than two images per category, or they are too small.
    """

    categories: DrawnSet
    images_per_category: int
    size: int
    defect_scale: float
    least_contrast: float
    least_area: float
    seed: int

    def __post_init__(self) -> None:
        self.categories = DrawnSet(self.categories)
        if self.images_per_category < 2:
            msg = (
                f"dataset.drawn.images_per_category must be at least 2, got {self.images_per_category}. "
                f"Half of them are normal."
            )
            raise ValueError(msg)
        if self.categories in (DrawnSet.names, DrawnSet.names_unseen) and self.images_per_category < FEWEST_OF_A_NAME:
            msg = (
                f"dataset.drawn.images_per_category must be at least {FEWEST_OF_A_NAME} where the name decides, "
                f"got {self.images_per_category}. Two are normal, two are normal under another name."
            )
            raise ValueError(msg)
        if self.size < SMALLEST:
            msg = f"dataset.drawn.size must be at least {SMALLEST} pixels, got {self.size}. The default is 256."
            raise ValueError(msg)
        if not 0 < self.defect_scale <= LARGEST_SCALE:
            msg = f"dataset.drawn.defect_scale must lie in (0, {LARGEST_SCALE}], got {self.defect_scale}. Use 1.6."
            raise ValueError(msg)
        for key in ("least_contrast", "least_area"):
            if not 0 <= getattr(self, key) <= LARGEST_DEMAND:
                msg = f"dataset.drawn.{key} must lie in 0..{LARGEST_DEMAND}, got {getattr(self, key)}. Ask for less."
                raise ValueError(msg)
        if self.seed < 0:
            msg = f"dataset.drawn.seed must not be negative, got {self.seed}. Use 0."
            raise ValueError(msg)

    @property
    def folder(self) -> str:
        """A name that tells these settings from all others."""
        return (
            f"{self.categories.value}_{self.size}px_{self.images_per_category}"
            f"_scale{self.defect_scale:g}_contrast{self.least_contrast:g}_area{self.least_area:g}_seed{self.seed}"
        )
