"""What a drawn dataset knows of each of its categories."""

from collections.abc import Callable
from dataclasses import dataclass

from drawn_anomalies.canvas import Canvas, Surface


@dataclass(frozen=True)
class Category:
    """A kind of object or texture that can be drawn.

    Attributes:
        name: As in the folder, words joined by underscores.
        draw: Draws one whole specimen.
        defects: The kinds of defects it can have, by their names in ``kinds.DEFECTS``.
    """

    name: str
    draw: Callable[[Canvas], Surface]
    defects: tuple[str, ...]
