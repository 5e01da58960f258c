"""What is known about a dataset before it is read, and the layouts that several datasets share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from afr_clip.data.disk.listing import Layout, TreeLayout

MVTEC_TREE = TreeLayout(
    marker="*/test",
    image="{category}/{split}/{type}/{stem}",
    masks=("{category}/ground_truth/{type}/{stem}_mask",),
)
"""MVTec AD's layout, which many datasets follow."""

EQUAL_NAMES_TREE = TreeLayout(
    marker="*/test",
    image="{category}/{split}/{type}/{stem}",
    masks=("{category}/ground_truth/{type}/{stem}_mask", "{category}/ground_truth/{type}/{stem}"),
    normal_types=("good", "ok", "normal"),
)
"""The same, but masks may also have the names of their images."""

POLYPS = TreeLayout(
    marker="images",
    image="images/{stem}",
    masks=("masks/{stem}",),
    fixed={"category": "colon", "type": "polyp", "split": "test"},
)
"""Images and masks of equal names in two folders, as polyp datasets are shared; every image shows a polyp."""

BRAIN_SCANS = TreeLayout(
    marker="yes",
    image="{type}/{stem}",
    normal_types=("no",),
    types=("no", "yes"),
    fixed={"category": "brain", "split": "test"},
)
"""Scans without and with a tumour. Other folders hold copies, or images without a known truth."""


class Count(NamedTuple):
    """Numbers of normal and of anomalous test images."""

    normal: int
    anomalous: int


class Domain(Enum):
    """Where a dataset's pictures come from."""

    INDUSTRIAL = "industrial"
    MEDICAL = "medical"
    OWN = "own"


@dataclass(frozen=True)
class Provenance:
    """Where a dataset comes from.

    Attributes:
        steps: How to get it, in order.
        licence: As its owner states it, or that none is stated.
        archives: SHA-256 of its archives, by file name, where known.
        notes: What to know before comparing results with published ones.
    """

    source: str
    steps: tuple[str, ...]
    licence: str
    citation: str
    archives: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetRow:
    """How one dataset is laid out on disk.

    Attributes:
        title: The name in tables; empty for your own data.
        folders: Folder names it is known by below the data directory; empty if the root must be given.
        layouts: The layouts it is found in; the first one whose marker is present is used.
        mask_threshold: Lowest 8-bit mask value that is anomalous; ``None`` for any value but 0 (128 in a JPEG).
        prompt_names: Words for categories in prompts, where they are not the name with spaces for underscores.
        counts: Published numbers of test images by category; empty where only the total is known.
        total: The published numbers over all categories; ``None`` if they are not known.
        provenance: Where it comes from; ``None`` for layouts of your own data.
        saturations: Path below the root of the file that states how much of each region has to be found, with a place
            for the category; empty where overlap does not saturate.
        saturated_types: The defect types of such a dataset, with the kind of anomaly that each one is.
    """

    name: str
    title: str
    domain: Domain
    folders: tuple[str, ...]
    layouts: tuple[Layout, ...]
    mask_threshold: int | None = None
    prompt_names: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, Count] = field(default_factory=dict)
    total: Count | None = None
    provenance: Provenance | None = None
    saturations: str = ""
    saturated_types: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.counts and self.total is None:
            object.__setattr__(self, "total", Count(*map(sum, zip(*self.counts.values(), strict=True))))

    @property
    def levels(self) -> tuple[str, ...]:
        """What can be scored on the published dataset: ``image``, ``pixel`` or both; empty for your own data."""
        if self.provenance is None:
            return ()
        promises_masks = any(layout.promises_masks for layout in self.layouts)
        scored = {"image": self.total is None or self.total.normal > 0, "pixel": promises_masks}
        return tuple(level for level, is_scored in scored.items() if is_scored)
