"""AFR-CLIP: zero-shot visual anomaly detection that compares text with text.

>>> import afr_clip
>>> detector = afr_clip.load("pocket")
>>> inspection = detector.inspect("part.png", category="metal nut")  # doctest: +SKIP
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
"""As in ``typing``, which takes time to import; type checkers know the name."""

if TYPE_CHECKING:
    from afr_clip.api import CalibrationError, Decision, Detector, Inspection, InspectionError, Region, load

__all__ = ["CalibrationError", "Decision", "Detector", "Inspection", "InspectionError", "Region", "__version__", "load"]


def __getattr__(name: str) -> object:
    """Import the API with its first use."""
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from afr_clip import api  # noqa: PLC0415

    return getattr(api, name)
