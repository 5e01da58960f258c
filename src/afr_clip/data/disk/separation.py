"""The leak guard: a model is never scored on what it was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from afr_clip.data.disk.loaded import LoadedDataset
from afr_clip.data.errors import DataError

HASH_DIGITS = 16
"""Leading hex digits of an image's SHA-256 in a checkpoint; 64 bits are enough to tell photographs apart."""


UNNAMED = frozenset({"folder", "meta_json"})
"""Names of layouts. A folder of one's own has such a name until it is given another; only its content is compared."""


@dataclass(frozen=True)
class TrainedOn:
    """What a checkpoint stores about its auxiliary dataset.

    Attributes:
        categories: The chosen categories; ``None`` for all.
        images: Leading digits of the SHA-256 of every image.
    """

    name: str
    root: str
    categories: tuple[str, ...] | None
    images: frozenset[str]

    @classmethod
    def of(cls, auxiliary: LoadedDataset) -> "TrainedOn":
        """Describe an auxiliary dataset."""
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
    """Make sure that a target shares nothing with the auxiliary dataset.

    Raises:
        DataError: If both have the same name or folder without disjoint categories, or share an image file.
    """
    if trained_on.root == str(target.root.resolve()):
        _require_disjoint_categories(trained_on, target, f"folder {target.root}")
    elif trained_on.name == target.spec.name and target.spec.name not in UNNAMED:
        _require_disjoint_categories(trained_on, target, f"name {target.spec.name!r}")
    shared = [
        sample
        for sha256, sample in zip(target.digest.images, target.samples, strict=True)
        if sha256[:HASH_DIGITS] in trained_on.images
    ]
    if shared:
        msg = (
            f"Auxiliary dataset {trained_on.name!r} and target {target.spec.name!r} share {len(shared)} image files; "
            f"the first is {shared[0].image_path}. Choose another target, or categories that do not overlap."
        )
        raise DataError(msg)


def _require_disjoint_categories(trained_on: TrainedOn, target: LoadedDataset, shared: str) -> None:
    before, now = trained_on.categories, target.spec.categories
    if before is None or now is None or set(before) & set(now):
        rename = "; if this is another dataset, name it: dataset.name=OTHER" if shared.startswith("name") else ""
        msg = (
            f"Auxiliary dataset and target share the {shared}, so their categories must be given and must not overlap, "
            f"got {_named(before)} and {_named(now)}. Set dataset.categories, or choose another target{rename}."
        )
        raise DataError(msg)


def _named(categories: tuple[str, ...] | None) -> str:
    return "all" if categories is None else str(list(categories))
