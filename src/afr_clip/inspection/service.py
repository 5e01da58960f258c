"""What the commands that keep running share: models under a name, batches in which each photograph fails alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from afr_clip.data.disk.picture_files import TooManyPixelsError
from afr_clip.data.errors import DataError
from afr_clip.files import shown
from afr_clip.inspection.detector import Decoded, Detector, Inspection
from afr_clip.inspection.exported import ExportedScanner
from afr_clip.inspection.scan import InspectionError
from afr_clip.prompts.ensemble import AGNOSTIC_NAME


@dataclass(frozen=True)
class Model:
    """A detector that runs under a name.

    Attributes:
        categories: The names that photographs may have, the default first; empty for any.
    """

    name: str
    detector: Detector
    categories: tuple[str, ...]

    def category(self, asked: str | None) -> str:
        """Return the category of a photograph.

        Args:
            asked: What its sender calls it; ``None`` for the model's default.

        Raises:
            InspectionError: If the model does not take it.
        """
        if asked is None:
            return self.categories[0] if self.categories else AGNOSTIC_NAME
        if self.categories and asked not in self.categories:
            known = ", ".join(map(shown, self.categories))
            msg = f"The model {self.name} takes the categories {known}, got {shown(asked[:100])}. Name one of them."
            raise InspectionError(msg)
        if not asked.strip() or len(asked) > 100:
            msg = f"category must be 1 to 100 characters that name what the photograph shows, got {len(asked)}."
            raise InspectionError(msg)
        return asked

    def describe(self) -> dict[str, Any]:
        """Return plain values for JSON: what the model is and what it takes."""
        scanner, category = self.detector.scanner, self.category(None)
        identity = self.detector.identity(category)
        exported = scanner.exported.engine if isinstance(scanner, ExportedScanner) else None
        engine = exported or scanner.engine.value  # type: ignore[attr-defined]
        return {
            "name": self.name,
            "method": identity.get("method"),
            "weights": identity.get("weights"),
            "image_size": scanner.input_size[0],
            "engine": engine,
            "categories": list(self.categories),
            "is_calibrated": self.detector.calibration is not None,
        }


def model_of(name: str, detector: Detector, declared: Sequence[str]) -> Model:
    """Decide which categories a model takes: those of its calibration or exported file, or what was declared.

    Raises:
        InspectionError: If something else was declared.
    """
    scanner, calibration = detector.scanner, detector.calibration
    own: list[str] = []
    if calibration is not None:
        own = [str(calibration.identity.get("category", ""))]
    elif isinstance(scanner, ExportedScanner) and scanner.exported.manifest["reads_category"]:
        own = scanner.exported.categories
    if foreign := [one for one in declared if own and one not in own]:
        msg = (
            f"The model {name} takes the categories {', '.join(map(shown, own))}, got {shown(foreign[0])}. A "
            f"calibration holds for one category, and an exported model for its own; leave the others out."
        )
        raise InspectionError(msg)
    default = [] if detector.category is None else [detector.category]
    return Model(name, detector, tuple(dict.fromkeys([*declared, *(own or default)])))


def inspect_each(
    detector: Detector, photographs: Sequence[Decoded], category: str
) -> list[Inspection | ValueError | MemoryError]:
    """Inspect photographs together; if that fails, each alone, so that a bad one spoils no other.

    Returns:
        An inspection for each, or the error of the one that failed.
    """
    try:
        return list(detector.inspect_decoded(photographs, category))
    except (ValueError, MemoryError) as error:
        if len(photographs) == 1:
            return [error]
    return [found for photograph in photographs for found in inspect_each(detector, [photograph], category)]


def sentence_of(error: DataError, cure: str) -> str:
    """Return why a photograph cannot be read, and if it has too many pixels, what the command's own user can do."""
    cause = error.__cause__
    return str(error).removesuffix(cause.cure) + cure if isinstance(cause, TooManyPixelsError) else str(error)


def now() -> str:
    """Return the time in UTC, to the millisecond, as ISO 8601 writes it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def record_of(found: Mapping[str, Any], *, key: str, model: str, file: str | None) -> dict[str, Any]:
    """Return the record of one photograph as `serve` answers it and `watch` sends it.

    Args:
        found: `Inspected.to_dict`, or the error of a photograph that could not be inspected.
        key: What identifies it: the same photograph has the same one if it is sent twice.
        file: Its name, or its path below the folder.
    """
    rest = {name: value for name, value in found.items() if name != "image"}
    return {"id": key, "time": now(), "model": model, "file": file, **rest}
