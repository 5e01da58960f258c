"""What a camera in a workshop does to a picture: tilt, crop, glare, shadow, blur, compression; none of it a defect."""

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from drawn_anomalies.canvas import Plane


def snapshot(
    rng: np.random.Generator,
    picture: UInt8[ndarray, "height width 3"],
    planes: tuple[Plane, ...],
    size: tuple[int, int],
    *,
    keeps_colours: bool,
) -> tuple[UInt8[ndarray, "rows columns 3"], tuple[Float32[ndarray, "rows columns"], ...]]:
    """Take a picture of a picture; half of them are only scaled.

    Args:
        planes: What lies where, in [0, 1]; moved along with the picture.
        size: Height and width of the result; not larger than the picture.
        keeps_colours: Whether the camera must not be one for grey pictures.
    """
    if rng.random() < 0.5:
        scaled = (cv2.resize(one, size[::-1], interpolation=cv2.INTER_AREA) for one in (picture, *planes))
        return next(scaled), tuple(scaled)
    if rng.random() < 0.4:
        way, border = _view(rng, picture.shape[:2], size), np.clip(rng.uniform(0, 230) + rng.normal(0, 15, 3), 0, 255)
        seen = cv2.warpPerspective(
            picture, way, size[::-1], borderMode=cv2.BORDER_CONSTANT, borderValue=tuple(border.tolist())
        )
        planes = tuple(cv2.warpPerspective(plane, way, size[::-1]) for plane in planes)
    else:
        seen = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
        planes = tuple(cv2.resize(plane, size[::-1], interpolation=cv2.INTER_AREA) for plane in planes)
    light = _lit(rng, seen.astype(np.float32) / 255)
    if rng.random() < 0.3:
        light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.3, 1.2) * min(size) / 256)
    if rng.random() < 0.2 and not keeps_colours:
        light = np.repeat(light.mean(axis=-1, keepdims=True), 3, axis=-1)
    taken = np.round(np.clip(light, 0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = int(rng.integers(40, 96))
        taken = cv2.imdecode(cv2.imencode(".jpg", taken, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
    return taken, planes


def _view(rng: np.random.Generator, size: tuple[int, int], seen: tuple[int, int]) -> Float32[ndarray, "3 3"]:
    """Return the homography of a slightly tilted camera that crops the picture, or also shows what lies around it."""
    reach = rng.uniform(1.02, 1.2) if rng.random() < 0.25 else rng.uniform(0.65, 1.0)
    half = np.array(size[::-1]) / 2
    middle = half + rng.uniform(-1, 1, 2) * np.abs(1 - reach) * half
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    angle = rng.normal(0, 0.08)
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    source = middle + (corners + rng.normal(0, 0.03, (4, 2))) @ turn.T * reach * half
    target = (corners + 1) / 2 * np.array(seen[::-1])
    return cv2.getPerspectiveTransform(source.astype(np.float32), target.astype(np.float32)).astype(np.float32)


def _lit(rng: np.random.Generator, picture: Float32[ndarray, "height width 3"]) -> Float32[ndarray, "height width 3"]:
    height, width = picture.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    if rng.random() < 0.25:  # glare, with a soft or a sharp outline
        for _ in range(rng.integers(1, 4)):
            angle, (cx, cy) = rng.uniform(0, np.pi), rng.uniform(-0.9, 0.9, 2)
            along = np.cos(angle) * (x - cx) + np.sin(angle) * (y - cy)
            across = np.cos(angle) * (y - cy) - np.sin(angle) * (x - cx)
            away = (along / rng.uniform(0.1, 0.9)) ** 2 + (across / rng.uniform(0.03, 0.25)) ** 2
            shape = np.exp(-away) if rng.random() < 0.7 else np.clip(2 - 2 * away, 0, 1)
            picture = picture + (rng.uniform(0.05, 0.45) * shape)[..., None].astype(np.float32)
    if rng.random() < 0.2:  # the shadow of something outside the picture
        angle, edge = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.8)
        inside = np.clip((np.cos(angle) * x + np.sin(angle) * y - edge) / rng.uniform(0.05, 0.5), 0, 1)
        picture = picture * (1 - rng.uniform(0.15, 0.5) * inside)[..., None].astype(np.float32)
    if rng.random() < 0.2:
        picture = picture * (1 - rng.uniform(0.1, 0.4) * (x**2 + y**2) / 2)[..., None].astype(np.float32)
    if rng.random() < 0.4:
        gain, lift = rng.uniform(0.7, 1.2), rng.uniform(-0.08, 0.06)
        picture = np.clip(gain * (picture - 0.5) + 0.5 + lift, 0, 1) ** np.float32(rng.uniform(0.75, 1.33))
    return picture.astype(np.float32)
