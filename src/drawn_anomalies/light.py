"""Soft light and a camera: from a surface to an 8-bit picture."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from drawn_anomalies.canvas import Canvas, Plane, Surface

AMBIENT = 0.55
"""Share of ambient light."""


@dataclass(frozen=True)
class Light:
    """Light and camera of one picture, drawn once, so that a flawed and a whole surface look alike elsewhere.

    Attributes:
        direction: Unit vector towards the lamp: right, down, up.
        tint: Gain of red, green and blue.
        falloff: Gain per pixel: a slow gradient and darker corners.
        blur: Standard deviation of the lens blur in pixels.
        noise: The sensor's noise per pixel and channel.
    """

    direction: tuple[float, float, float]
    exposure: float
    tint: Float32[ndarray, " 3"]
    falloff: Plane
    blur: float
    noise: Float32[ndarray, "height width 3"]

    @classmethod
    def drawn(cls, canvas: Canvas) -> "Light":
        """Draw random light and camera."""
        rng = canvas.rng
        azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.2)
        level = np.cos(elevation)
        direction = (float(level * np.cos(azimuth)), float(level * np.sin(azimuth)), float(np.sin(elevation)))
        slope_x, slope_y = rng.uniform(-0.08, 0.08, 2).astype(np.float32)
        corners = np.float32(rng.uniform(0, 0.08))
        falloff = 1 + slope_x * canvas.x + slope_y * canvas.y - corners * (canvas.x**2 + canvas.y**2)
        grain = rng.normal(0, rng.uniform(0.004, 0.014), (*canvas.size, 3))
        return cls(
            direction=direction,
            exposure=float(rng.uniform(0.88, 1.12)),
            tint=rng.normal(1, 0.015, 3).astype(np.float32),
            falloff=falloff.astype(np.float32),
            blur=float(rng.uniform(0.35, 0.8)) * min(canvas.size) / 256,
            noise=grain.astype(np.float32),
        )

    def seen(self, surface: Surface, pixel: float) -> Float32[ndarray, "height width 3"]:
        """Render a surface without the sensor's noise.

        Args:
            pixel: Side of a pixel in the units of the surface's height.

        Returns:
            Linear values, mostly in [0, 1].
        """
        slope_y, slope_x = np.gradient(surface.height, np.float32(pixel))
        length = np.sqrt(slope_x**2 + slope_y**2 + 1)
        right, down, up = self.direction
        facing = np.clip((up - right * slope_x - down * slope_y) / length, 0, None)
        bright = (AMBIENT + (1 - AMBIENT) * facing / up) * self.exposure * self.falloff
        picture = surface.colour * (bright[..., None] * self.tint).astype(np.float32)
        if surface.gloss > 0:
            # Blinn's half vector between the lamp and a camera straight above.
            half = np.array([right, down, up + 1.0]) / np.linalg.norm([right, down, up + 1.0])
            towards = np.clip((half[2] - half[0] * slope_x - half[1] * slope_y) / length, 0, 1)
            picture = picture + (surface.gloss * 0.5 * towards**24)[..., None].astype(np.float32)
        return cv2.GaussianBlur(picture, (0, 0), self.blur) if self.blur > 0.2 else picture

    def photographed(self, picture: Float32[ndarray, "height width 3"]) -> UInt8[ndarray, "height width 3"]:
        """Add the sensor's noise and round to 8 bits."""
        return np.round(np.clip(picture + self.noise, 0, 1) * 255).astype(np.uint8)
