"""A detector as users see it: photographs in, inspections out."""

import hashlib
import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard, overload

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageOps

from afr_clip.data.disk.picture_files import MAX_PIXELS, read_picture
from afr_clip.files import shown
from afr_clip.inspection.areas import read_area
from afr_clip.inspection.calibration import Calibration, Decision
from afr_clip.inspection.record import Inspected
from afr_clip.inspection.regions import Region, find_regions
from afr_clip.inspection.scan import InspectionError, PhotographScanner, Scan
from afr_clip.inspection.settings import InspectionSettings
from afr_clip.prompts.ensemble import AGNOSTIC_NAME
from afr_clip.settings import DecideBy

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from torch import Tensor

    Photograph = str | Path | Image.Image | np.ndarray | Tensor
else:  # an exported model runs without torch
    Photograph = str | Path | Image.Image | np.ndarray
"""A file, or pixels: RGB or grey, ``uint8``, or floats in [0, 1]; arrays ``H x W (x 3)``, tensors ``(3 x) H x W``."""


class Decoded(NamedTuple):
    """A photograph whose pixels have been read.

    Attributes:
        name: What results and errors call it.
        pixels: RGB, upright.
        path: Its file, by which a folder of masks is searched.
    """

    name: str
    pixels: UInt8[np.ndarray, "3 height width"]
    path: Path | None = None


@dataclass(frozen=True)
class Inspection:
    """What was found on one photograph.

    Attributes:
        inspected: Score, decision and regions, as they are written to disk.
        photograph: RGB, upright.
    """

    inspected: Inspected
    photograph: UInt8[np.ndarray, "height width 3"]
    scan: Scan
    calibration: Calibration | None

    @property
    def image_score(self) -> float:
        """From 0 to 1; not a calibrated probability."""
        return self.inspected.image_score

    @property
    def decision(self) -> Decision | None:
        """Normal, anomalous or undecided; ``None`` without a calibration."""
        return self.inspected.decision

    @property
    def is_anomalous(self) -> bool | None:
        """Whether the photograph shows an anomaly; ``None`` without a calibration, or if it cannot be decided."""
        decided = {Decision.anomalous: True, Decision.normal: False}
        return None if self.decision is None else decided.get(self.decision)

    @property
    def regions(self) -> tuple[Region, ...]:
        """Where the anomalies are, the highest peak first; none without a calibration or ``region_threshold``."""
        return self.inspected.regions

    @property
    def by_name(self) -> Mapping[str, float]:
        """The image score under each other name of ``compare_names``; see what the category's name does."""
        return self.inspected.by_name

    @cached_property
    def anomaly_map(self) -> Float32[np.ndarray, "height width"]:
        """The anomaly score of each pixel at the photograph's own size, in [0, 1]."""
        return self.scan.enlarged()

    def overlay(self) -> Image.Image:
        """Lay the map over the photograph, with the outlines of the regions.

        With a calibration the colours mean the same on every picture: the middle of the scale is the threshold.
        """
        from afr_clip.inspection.colours import draw_outlines, laid_over  # noqa: PLC0415 - matplotlib is for those who look

        values = self.anomaly_map if self.calibration is None else self.calibration.calibrated_map(self.anomaly_map)
        picture = Image.fromarray(laid_over(self.photograph, values))
        draw_outlines(picture, self.regions)
        return picture

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: all but the map and the photograph."""
        return self.inspected.to_dict()


@dataclass(frozen=True)
class Detector:
    """Inspects photographs; several threads may use it. Made by ``afr_clip.load``.

    Attributes:
        scanner: The network.
        category: What photographs show, in words, unless `inspect` is told otherwise.
        calibration: Where thresholds and decisions come from.
        max_pixels: Most pixels of a file.
    """

    scanner: PhotographScanner
    settings: InspectionSettings
    category: str | None = None
    calibration: Calibration | None = None
    max_pixels: int = MAX_PIXELS

    @overload
    def inspect(  # type: ignore[overload-overlap]  # a text is one path
        self, image: Photograph, category: str | None = None
    ) -> Inspection: ...

    @overload
    def inspect(self, image: Iterable[Photograph], category: str | None = None) -> Iterator[Inspection]: ...

    def inspect(self, image: Any, category: str | None = None) -> Inspection | Iterator[Inspection]:
        """Inspect one photograph, or any number of them in batches as the result is read.

        Args:
            image: One `Photograph`, or an iterable of them.
            category: What they show, in words: "metal nut". Without it, that of `load`, or of the calibration, or
                "object". Not read by AnomalyCLIP, AF-CLIP, AdaptCLIP, UniADet and VisualAD, nor where a checkpoint's
                prompts are object-agnostic.

        Raises:
            DataError: If a file cannot be read.
            InspectionError: If a picture has another form, or the category is blank.
            CalibrationError: If the calibration belongs to another category.
            ScoreError: If a score is NaN or infinite.
        """
        if isinstance(image, Photograph | bytes) or is_tensor(image) or not isinstance(image, Iterable):
            return next(self.inspect_decoded(self._decoded([image]), category))
        return self.inspect_decoded(self._decoded(image), category)

    def _decoded(self, images: Iterable[Any]) -> Iterator[Decoded]:
        for number, image in zip(count(1), images, strict=False):
            path = Path(image) if isinstance(image, str | Path) else None
            name = f"image {number}" if path is None else shown(path)
            yield Decoded(name, as_rgb(image, self.max_pixels), path)

    def inspect_decoded(self, photographs: Iterable[Decoded], category: str | None = None) -> Iterator[Inspection]:
        """Inspect photographs whose pixels have been read, in batches; see `inspect`."""
        category = category or self.category
        if category is None:
            category = AGNOSTIC_NAME
            logger.info("No category was given, so the photograph is called 'object'. Name what it shows: 'metal nut'.")
        if not category.strip():
            msg = f"category must say what the photograph shows, got {category!r}. Write inspect(image, 'metal nut')."
            raise InspectionError(msg)
        if self.calibration is not None:
            self.calibration.require(self.identity(category))
        return self._stream(photographs, category)

    def _stream(self, photographs: Iterable[Decoded], category: str) -> Iterator[Inspection]:
        read: list[Decoded] = []

        def pixels() -> Iterator[tuple[str, UInt8[np.ndarray, "3 _ _"]]]:
            for photograph in photographs:
                read.append(photograph)
                yield photograph.name, photograph.pixels

        for whole in self.scanner.scan(pixels(), category, self.other_names(category)):
            name, rgb, path = read.pop(0)
            scan, inspected = self.judge(name, whole, category, self.area(path, whole.size), rgb)
            yield Inspection(inspected, np.ascontiguousarray(rgb.transpose(1, 2, 0)), scan, self.calibration)

    def other_names(self, category: str) -> list[str]:
        """Return the names of ``compare_names`` that are not the category itself."""
        return [name for name in self.settings.compare_names or () if name != category]

    def identity(self, category: str) -> dict[str, Any]:
        """Describe all that decides the scores of a photograph; a calibration holds for no other."""
        areas = {"roi": self.settings.roi, "ignore": self.settings.ignore}
        return self.scanner.identity(category) | {
            name: None if path is None else "a folder" if Path(path).is_dir() else content_hash(path)
            for name, path in areas.items()
        }

    def area(
        self, photograph: Path | None, size: tuple[int, int], root: Path | None = None
    ) -> Bool[np.ndarray, "height width"] | None:
        """Read which part of a photograph counts; ``None`` for all of it.

        Raises:
            DataError: If a mask is missing, unreadable or of another size.
            InspectionError: If masks are a folder and the photograph has no name.
        """
        roi, ignore = (None if path is None else Path(path) for path in (self.settings.roi, self.settings.ignore))
        if roi is None and ignore is None:
            return None
        if photograph is None and any(path is not None and path.is_dir() for path in (roi, ignore)):
            msg = "A folder of roi or ignore masks needs photographs with names, got pixels. Pass one mask for all."
            raise InspectionError(msg)
        return read_area(
            roi, photograph or Path("image"), size[::-1], ignore=ignore, root=root, max_pixels=self.max_pixels
        )

    def judge(
        self,
        name: str,
        scan: Scan,
        category: str,
        area: Bool[np.ndarray, "height width"] | None = None,
        photograph: UInt8[np.ndarray, "3 height width"] | None = None,
    ) -> tuple[Scan, Inspected]:
        """Find the regions of a scored photograph and decide about it.

        Args:
            photograph: Its pixels, which hints need.

        Returns:
            The scan within the area, and what is known of the photograph.
        """
        scan, settings, calibration = scan.within(area), self.settings, self.calibration
        regions: tuple[Region, ...] = ()
        high = low = seen_from = settings.region_threshold
        if calibration is not None:
            # A score that is equal to a threshold is not above it. A region may be too low to show, but undecided.
            high = math.nextafter(calibration.map_high, math.inf)
            seen_from = min(high, math.nextafter(calibration.region.undecided_from, math.inf))
            low = min(calibration.map_low, seen_from)
        anomaly_map = scan.enlarged()
        largest = float(anomaly_map.max())
        if high is not None and seen_from is not None and low is not None and largest >= seen_from:
            found = find_regions(
                anomaly_map, seen_from, low, mm_per_pixel=settings.mm_per_pixel, min_area_mm2=settings.min_area_mm2
            )
            regions = tuple(region for region in found if region.peak >= high)
            if settings.min_area_mm2 is not None:
                largest = found[0].peak if found else 0.0
        if settings.defects is not None and photograph is not None:
            regions = self.scanner.hinted(photograph, regions, category, tuple(settings.defects))
        height, width = scan.size
        decided: tuple[float | None, Decision | None, float | None] = (None, None, None)
        if calibration is not None:
            deciding = calibration.region if calibration.decide_by is DecideBy.region else calibration.image
            decided = (
                deciding.threshold,
                calibration.decide(scan.image_score, largest),
                calibration.calibrated_part(scan.image_score, largest),
            )
        return scan, Inspected(name, width, height, category, scan.image_score, *decided, regions, scan.by_name)


def content_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InspectionError: If it cannot be read.
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        msg = f"{shown(Path(path))} cannot be read: {error.strerror}. Check the path and its permissions."
        raise InspectionError(msg) from error


def is_tensor(image: object) -> "TypeGuard[Tensor]":
    """Whether something is a tensor; does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(image, torch.Tensor)


def as_rgb(image: Any, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "3 height width"]:  # noqa: ANN401 - see Raises
    """Return the pixels of a `Photograph`, upright.

    Raises:
        DataError: If a file cannot be read.
        InspectionError: If it is something else, or pixels have another form than `Photograph` allows.
    """
    if not (isinstance(image, Photograph) or is_tensor(image)):
        msg = (
            f"A photograph must be a path, a PIL image, a NumPy array or a tensor, got {type(image).__name__}. Open "
            f"bytes with PIL.Image.open(io.BytesIO(content)); make an array of numbers: numpy.uint8(numbers)."
        )
        raise InspectionError(msg)
    if isinstance(image, str | Path):
        if os.path.isdir(image):  # noqa: PTH112 - Path.is_dir raises below a folder that may not be entered
            msg = f"{shown(image)} is a folder. Pass its photographs: detector.inspect(Path({str(image)!r}).glob('*'))."
            raise InspectionError(msg)
        # Left in Pillow's memory order: resizing reads (H, W, 3) faster than (3, H, W).
        return read_picture(Path(image), max_pixels=max_pixels).rgb.transpose(2, 0, 1)
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith(("I", "F")):
            msg = f"A PIL image must have 8 bits per channel, got mode {upright.mode}. Pass the file's path instead."
            raise InspectionError(msg)
        return np.array(upright.convert("RGB")).transpose(2, 0, 1)
    if isinstance(image, np.ndarray):
        form = "an array of H x W or H x W x 3"
        is_number = image.dtype.kind in "uif" and image.dtype.itemsize <= 8
        pixels = image.astype(image.dtype.newbyteorder("="), order="C") if is_number else np.empty(0)
        pixels = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels
    else:
        form, tensor = "a tensor of H x W, 1 x H x W or 3 x H x W", image.detach().cpu()
        pixels = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    channels = pixels[None] if pixels.ndim == 2 else pixels
    if channels.ndim != 3 or channels.shape[0] not in (1, 3) or not channels.size:
        msg = f"Pixels must be {form}, got shape {tuple(image.shape)} of {image.dtype}. Convert to RGB first."
        raise InspectionError(msg)
    return np.repeat(_as_bytes(channels), 3 // len(channels), axis=0)


def _as_bytes(channels: NDArray[Any]) -> UInt8[np.ndarray, "channels height width"]:
    if channels.dtype.kind == "f":
        if not bool(((channels >= 0) & (channels <= 1)).all()):
            msg = "Pixels that are floats must lie in [0, 1], got others. Divide by the largest possible value."
            raise InspectionError(msg)
        return np.rint(channels * 255).astype(np.uint8)
    if channels.dtype != np.uint8:
        msg = f"Pixels must be uint8 or floats in [0, 1], got {channels.dtype}. Convert them."
        raise InspectionError(msg)
    return channels
