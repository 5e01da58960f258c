"""What a model was trained on is never what it is scored on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from afr_clip.data.disk.loaded import LoadedDataset
from afr_clip.data.errors import DataError

HASH_DIGITS = 16
"""Leading hex digits of an image's SHA-256 that a checkpoint remembers; 64 bits tell any two photographs apart."""


@dataclass(frozen=True)
class TrainedOn:
    """What a checkpoint remembers of its auxiliary dataset.

    Attributes:
        name: Name of the dataset.
        root: Its folder, resolved.
        categories: The categories that were named; ``None`` where all were taken.
        images: Leading digits of the SHA-256 of every image.
    """

    name: str
    root: str
    categories: tuple[str, ...] | None
    images: frozenset[str]

    @classmethod
    def of(cls, auxiliary: LoadedDataset) -> "TrainedOn":
        """Describe a dataset that is trained on."""
        images = frozenset(sha256[:HASH_DIGITS] for sha256 in auxiliary.digest.images)
        return cls(auxiliary.spec.name, str(auxiliary.root.resolve()), auxiliary.spec.categories, images)

    def as_plain(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        categories = None if self.categories is None else list(self.categories)
        return {"name": self.name, "root": self.root, "categories": categories, "images": sorted(self.images)}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "TrainedOn":
        """Read what ``as_plain`` wrote."""
        categories = None if values["categories"] is None else tuple(values["categories"])
        return cls(values["name"], values["root"], categories, frozenset(values["images"]))


def refuse_overlap(trained_on: TrainedOn, target: LoadedDataset) -> None:
    """Make sure that a target holds nothing a model was trained on.

    Args:
        trained_on: The auxiliary dataset.
        target: What is to be scored.

    Raises:
        DataError: If both have the same name or folder and do not name disjoint categories, or if they share an image
            file.
    """
    if trained_on.name == target.spec.name:
        _require_disjoint_categories(trained_on, target, f"name {target.spec.name!r}")
    if trained_on.root == str(target.root.resolve()):
        _require_disjoint_categories(trained_on, target, f"folder {target.root}")
    shared = [
        sample
        for sha256, sample in zip(target.digest.images, target.samples, strict=True)
        if sha256[:HASH_DIGITS] in trained_on.images
    ]
    if shared:
        msg = (
            f"Auxiliary dataset {trained_on.name!r} and target {target.spec.name!r} must share no image, but "
            f"{len(shared)} files are the same; the first is {shared[0].image_path}. "
            f"Choose another target, or categories that do not overlap."
        )
        raise DataError(msg)


def _require_disjoint_categories(trained_on: TrainedOn, target: LoadedDataset, shared: str) -> None:
    before, now = trained_on.categories, target.spec.categories
    if before is None or now is None or set(before) & set(now):
        msg = (
            f"Auxiliary dataset and target share the {shared}, so both must name their categories and have none in "
            f"common, got {_named(before)} and {_named(now)}. Set dataset.categories, or choose another target."
        )
        raise DataError(msg)


def _named(categories: tuple[str, ...] | None) -> str:
    return "all" if categories is None else str(list(categories))
