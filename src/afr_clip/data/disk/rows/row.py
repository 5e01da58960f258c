"""What is known of a dataset before it is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from afr_clip.data.disk.listing import Layout


class Count(NamedTuple):
    """Numbers of test images.

    Attributes:
        normal: Without a defect.
        anomalous: With one.
    """

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
        source: Address of its page.
        steps: How to get it, in order.
        licence: As its owner states it, or that none is stated.
        citation: Whom to cite.
        archives: SHA-256 of its archives, by file name, where it is known.
        notes: What to know before its numbers are compared with other people's.
    """

    source: str
    steps: tuple[str, ...]
    licence: str
    citation: str
    archives: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetRow:
    """How one dataset lies on a disk.

    Attributes:
        name: The row's key.
        title: What it is called in tables; empty for a folder of the user's own.
        domain: Where its pictures come from.
        folders: Names that its folder goes by below the data directory; none if the user must name the root.
        layouts: The forms in which it is found; the first whose marker is present is used.
        mask_threshold: Least 8-bit mask value that counts as anomalous; ``None`` for any value but 0 (128 in a JPEG).
        prompt_names: What a category is called in prompts, where that is not its name with spaces for underscores.
        counts: Published numbers of test images by category; empty where only the total is known.
        total: The same over all categories; ``None`` where nothing is published.
        provenance: Where it comes from; ``None`` for a form that anybody's data may have.
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

    def __post_init__(self) -> None:
        if self.counts and self.total is None:
            object.__setattr__(self, "total", Count(*map(sum, zip(*self.counts.values(), strict=True))))

    @property
    def levels(self) -> tuple[str, ...]:
        """What can be scored on the published dataset: ``image``, ``pixel`` or both; empty where it depends."""
        if self.total is None:
            return ()
        promises_masks = any(layout.promises_masks for layout in self.layouts)
        scored = {"image": self.total.normal > 0, "pixel": promises_masks}
        return tuple(level for level, is_scored in scored.items() if is_scored)
