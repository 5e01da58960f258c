"""What the server answers, for its OpenAPI description; a test holds real answers against it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class FoundHint(_Answer):
    """The word that fits a region best."""

    word: str
    margin: float


class FoundRegion(_Answer):
    """A connected anomalous region; `Region.to_dict`."""

    box: list[int] = Field(description="left, top, width, height in pixels of the photograph")
    area_px: int
    area_mm2: float | None
    peak: float
    mean: float
    hint: FoundHint | None
    polygons: list[list[list[float]]] = Field(description="rings of corners (x, y) along the edges of the pixels")
    mask: list[int] = Field(description="run lengths within the box, by column, beginning with background")


class Found(_Answer):
    """What was found on one photograph."""

    id: str = Field(description="the id of the request")
    time: str
    model: str
    file: str | None
    width: int
    height: int
    category: str
    image_score: float = Field(description="from 0 to 1; not a calibrated probability")
    threshold: float | None = Field(description="null without calibration, as the next two")
    decision: str | None = Field(description="normal, anomalous or undecided")
    calibrated: float | None
    regions: list[FoundRegion]
    by_name: dict[str, float] = Field(default_factory=dict)
    map: str | None = Field(default=None, description="with map=true: a PNG of 16 bits in base64; value / 65535")


class Served(_Answer):
    """A model and what it takes."""

    name: str
    method: str | None
    weights: str | None
    image_size: int
    engine: str
    categories: list[str] = Field(description="the default first; empty for any")
    is_calibrated: bool


class Refusal(_Answer):
    """Why a request was refused."""

    error: str
    id: str


BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {"type": "string", "format": "binary"},
                        "model": {"type": "string"},
                        "category": {"type": "string"},
                        "map": {"type": "boolean"},
                    },
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "image": {"type": "string", "format": "byte", "description": "base64; or path"},
                        "path": {"type": "string", "description": "a file below the server's folder"},
                        "file": {"type": "string", "description": "a name for the photograph"},
                        "model": {"type": "string", "description": "needed if there are several"},
                        "category": {"type": "string", "description": "what the photograph shows"},
                        "map": {"type": "boolean", "default": False},
                    },
                }
            },
        },
    }
}
"""The body of an inspection, which is read by `read_asked` and not by FastAPI."""
