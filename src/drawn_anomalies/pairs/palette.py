"""The colours of the captions, by name."""

from collections.abc import Mapping

from drawn_anomalies.canvas import Colour

PALETTE: Mapping[str, Colour] = {
    "red": (0.80, 0.11, 0.12),
    "orange": (0.95, 0.50, 0.08),
    "yellow": (0.94, 0.85, 0.14),
    "green": (0.16, 0.58, 0.22),
    "blue": (0.15, 0.36, 0.84),
    "purple": (0.50, 0.19, 0.64),
    "pink": (0.95, 0.58, 0.74),
    "brown": (0.42, 0.25, 0.14),
    "black": (0.08, 0.08, 0.09),
    "white": (0.92, 0.92, 0.91),
    "grey": (0.50, 0.50, 0.51),
    "beige": (0.86, 0.77, 0.60),
    "turquoise": (0.16, 0.76, 0.73),
    "navy": (0.07, 0.11, 0.36),
    "olive": (0.44, 0.46, 0.14),
    "golden": (0.80, 0.60, 0.18),
}
"""Reflected red, green and blue of every named colour."""


def toned(colour: Colour, gain: float, towards: float = 0.0) -> Colour:
    """Return a darker or brighter shade of a colour.

    Args:
        towards: Share of white that is mixed in afterwards.
    """
    red, green, blue = (min(0.98, channel * gain) * (1 - towards) + towards for channel in colour)
    return red, green, blue


def contrasting(colour: Colour) -> Colour:
    """Return near white for a dark colour and near black for a bright one."""
    bright = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 0.5
    return (0.10, 0.10, 0.12) if bright else (0.93, 0.92, 0.89)
