"""What is passed from the disk to the model: one record per image, one frozen batch per step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AnomalySample:
    """One image of a dataset, before anything is decoded.

    Attributes:
        dataset: The name that results are reported under, for example ``"mvtec_ad"``.
        category: Object or texture kind as the dataset spells it, for example ``"metal_nut"``.
        defect_type: Folder or label of the condition, for example ``"good"`` or ``"scratch"``.
        mask_path: The ground-truth mask, a file or a folder of files that count together; ``None`` for normal images
            and for datasets without masks.
        prompt_name: The category in words for prompts, for example ``"metal nut"``.
        name: Name of the image's output files, unique within its category and type; defaults to the stem of the file.
    """

    dataset: str
    category: str
    defect_type: str
    image_path: Path
    mask_path: Path | None
    is_anomalous: bool
    prompt_name: str
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.image_path.stem)


@dataclass(frozen=True)
class Share:
    """The part of a batch that one of several processes works on.

    Attributes:
        own: Number of images of this process; 0 if it has only a stand-in that does not count.
        whole: Number of images of all processes.
    """

    own: int
    whole: int


@dataclass(frozen=True)
class AnomalyBatch:
    """What one step sees: ``B`` images of ``H x W`` pixels.

    Attributes:
        image: Normalised RGB images; ``None`` if ``tapped`` replaces them.
        mask: Pixel truth; all ``False`` for normal images and where ``has_mask`` is ``False``.
        has_mask: Whether pixel truth is known for the image (always so for normal images of a dataset with masks).
        index: Position of each image in the dataset's list of samples.
        tapped: What the frozen image tower gives for the images, from the feature cache; empty without one.
        reference: For methods that train with one, another normal image of each image's category.
        share: This process's part of a batch of several processes; ``None`` for a single process.
        faults: Why a photograph could not be read, by its index; a black picture keeps its place.
        truth_stays: Whether ``to`` leaves truth and index on the CPU, where a scored batch is compared.
    """

    image: Float[Tensor, "batch 3 height width"] | None
    mask: Bool[Tensor, "batch height width"]
    has_mask: Bool[Tensor, " batch"]
    is_anomalous: Bool[Tensor, " batch"]
    index: Int[Tensor, " batch"]
    samples: tuple[AnomalySample, ...]
    tapped: tuple[Tensor, ...] = ()
    reference: "AnomalyBatch | None" = None
    share: Share | None = None
    faults: Mapping[int, str] = field(default_factory=dict)
    truth_stays: bool = False

    @property
    def counts(self) -> bool:
        """Whether its images count, or are only a stand-in."""
        return self.share is None or self.share.own > 0

    @property
    def pictures(self) -> Float[Tensor, "batch 3 height width"]:
        """The images, which must be there."""
        assert self.image is not None, "AnomalyDataModule.pictured() reads the images of a batch without them"
        return self.image

    @property
    def category(self) -> tuple[str, ...]:
        """The category of each image."""
        return tuple(sample.category for sample in self.samples)

    @property
    def prompt_name(self) -> tuple[str, ...]:
        """What each image shows, in words for prompts."""
        return tuple(sample.prompt_name for sample in self.samples)

    def to(self, device: torch.device) -> "AnomalyBatch":
        """Return the batch on ``device``, without its truth if ``truth_stays``; does not wait for a GPU."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=device.type == "cuda")

        if self.truth_stays:
            image = None if self.image is None else move(self.image)
            return replace(self, image=image, tapped=tuple(map(move, self.tapped)))
        return self._map(move)

    def pin_memory(self) -> "AnomalyBatch":
        """Return the batch with its tensors in page-locked memory; called by PyTorch's data loader."""
        return self._map(Tensor.pin_memory)

    def _map(self, move: Callable[[Tensor], Tensor]) -> "AnomalyBatch":
        return replace(
            self,
            image=None if self.image is None else move(self.image),
            tapped=tuple(move(tensor) for tensor in self.tapped),
            reference=None if self.reference is None else self.reference._map(move),
            mask=move(self.mask),
            has_mask=move(self.has_mask),
            is_anomalous=move(self.is_anomalous),
            index=move(self.index),
        )
