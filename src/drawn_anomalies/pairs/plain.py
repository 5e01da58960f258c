"""Plain materials and things that carry features well, each in any colour."""

from dataclasses import replace

import numpy as np

from drawn_anomalies.canvas import Canvas, Colour, Plane, Surface, box, disc, flat
from drawn_anomalies.kinds import Subject
from drawn_anomalies.pairs.frame import BACKDROPS, bevel, framed, laid
from drawn_anomalies.pairs.materials import filling, plaster, plastic, shaded, turned


def sheet(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a flat sheet without gloss."""
    return _material(canvas, colour, np.float32(0.03) * canvas.noise(0.8, 2))


def fabric(canvas: Canvas, colour: Colour) -> Surface:
    """Draw cloth of a fine grain."""
    x, y = turned(canvas, 0.6)
    grain = np.sin(x * np.float32(105)) * np.sin(y * np.float32(105))
    return _material(canvas, colour, np.float32(0.09) * grain + np.float32(0.05) * canvas.noise(0.4, 2), grain * 0.002)


def paper(canvas: Canvas, colour: Colour) -> Surface:
    """Draw paper: fine, short streaks."""
    streaks = canvas.noise(0.03, 2, 3.0)
    return _material(canvas, colour, np.float32(0.035) * streaks, streaks * 0.0015)


def rubber(canvas: Canvas, colour: Colour) -> Surface:
    """Draw rubber: a dull skin with a fine grain."""
    return _material(canvas, colour, np.float32(0.06) * canvas.grain(), canvas.noise(0.05, 2) * 0.003, 0.1)


def steel(canvas: Canvas, colour: Colour) -> Surface:
    """Draw brushed metal with a sheen across it."""
    x, _ = turned(canvas, np.pi)
    streaks = canvas.noise(0.018, 2, 25.0)
    sheen = np.sin(x * np.float32(2.2))
    return _material(canvas, colour, np.float32(0.09) * streaks + np.float32(0.12) * sheen, streaks * 0.001, 0.4)


def felt(canvas: Canvas, colour: Colour) -> Surface:
    """Draw felt: soft, mottled wool."""
    fuzz = canvas.noise(0.06, 3)
    return _material(canvas, colour, np.float32(0.12) * fuzz + np.float32(0.05) * canvas.grain(), fuzz * 0.006)


def board(canvas: Canvas, colour: Colour) -> Surface:
    """Draw pressed board: flat chips of slightly different tones."""
    chips = np.round(canvas.noise(0.09, 1, 2.0) * np.float32(1.5))
    return _material(canvas, colour, np.float32(0.05) * chips + np.float32(0.03) * canvas.grain())


def foil(canvas: Canvas, colour: Colour) -> Surface:
    """Draw foil with soft, glossy waves."""
    waves = canvas.noise(0.35, 2)
    return _material(canvas, colour, np.float32(0.06) * waves, waves * 0.02, 0.5)


def vinyl(canvas: Canvas, colour: Colour) -> Surface:
    """Draw vinyl: an even, finely pebbled skin."""
    pebbles = canvas.noise(0.04)
    return _material(canvas, colour, np.float32(0.05) * pebbles, pebbles * 0.005, 0.25)


def slate(canvas: Canvas, colour: Colour) -> Surface:
    """Draw split slate: layers and clouds along one direction."""
    layers = canvas.noise(0.3, 4, 2.5)
    return _material(canvas, colour, np.float32(0.12) * layers, layers * 0.012)


def round_disc(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a flat disc."""
    at = framed(canvas)
    return laid(canvas, colour, at, disc(at.x, at.y, 0.85))


def plate(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a square plate with clipped corners."""
    at = framed(canvas)
    return laid(canvas, colour, at, np.maximum(box(at.x, at.y, 0.75, 0.75), _diamond(at.x, at.y, 1.3)), gloss=0.35)


def panel(canvas: Canvas, colour: Colour) -> Surface:
    """Draw an upright panel with rounded corners and a wide, low rim."""
    at = framed(canvas, turn=0.7)
    distance = box(at.x, at.y, 0.85, canvas.rng.uniform(0.55, 0.72), 0.1)
    return laid(canvas, colour, at, distance, bevel(distance, 0.12, 0.03))


def block(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a block from above: sharp corners and a steep rim."""
    at = framed(canvas)
    distance = box(at.x, at.y, 0.8, canvas.rng.uniform(0.48, 0.62))
    return laid(canvas, colour, at, distance, bevel(distance, 0.09, 0.12), 0.1)


def band(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a broad, flat ring."""
    at, half = framed(canvas), canvas.rng.uniform(0.22, 0.28)
    return laid(canvas, colour, at, np.abs(disc(at.x, at.y, 0.62)) - np.float32(half), gloss=0.3)


def bar(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a long bar with square ends."""
    at = framed(canvas)
    return laid(canvas, colour, at, box(at.x, at.y, 0.92, canvas.rng.uniform(0.26, 0.34), 0.02), gloss=0.35)


def lid(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a round lid with a raised rim."""
    at = framed(canvas)
    distance = disc(at.x, at.y, 0.82)
    rim = np.exp(-(((distance + np.float32(0.08)) / np.float32(0.04)) ** 2)) * np.float32(0.05)
    return laid(canvas, colour, at, distance, rim.astype(np.float32), 0.3)


def tag(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a tag: a rectangle that is pointed at one end."""
    at = framed(canvas)
    pointed = np.float32(0.7) * (np.abs(at.y) + at.x - np.float32(1.05))
    return laid(canvas, colour, at, np.maximum(box(at.x, at.y, 0.88, 0.46), pointed), gloss=0.05)


def pad(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a thick pad, round at the corners and domed."""
    at = framed(canvas)
    distance = box(at.x, at.y, 0.74, 0.66, 0.3)
    return laid(canvas, colour, at, distance, bevel(distance, 0.4, 0.14), 0.1)


def shield(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a shield: straight at the top, pointed at the bottom."""
    at = framed(canvas, turn=0.7)
    arcs = disc(np.abs(at.x) + np.float32(0.3), at.y + np.float32(0.2), 1.05)
    return laid(canvas, colour, at, np.maximum(arcs, -(at.y + np.float32(0.75))), gloss=0.3)


def wedge(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a wedge: wide at one end and narrow at the other."""
    at = framed(canvas)
    slanted = np.abs(at.y) - np.float32(0.45) - np.float32(0.28) * at.x
    return laid(canvas, colour, at, np.maximum(slanted * np.float32(0.96), np.abs(at.x) - np.float32(0.85)))


def hexagon(canvas: Canvas, colour: Colour) -> Surface:
    """Draw a flat piece with six corners."""
    at = framed(canvas)
    x, y = np.abs(at.x), np.abs(at.y)
    return laid(canvas, colour, at, np.maximum(x, np.float32(0.5) * x + np.float32(0.866) * y) - np.float32(0.76))


BASES: tuple[Subject, ...] = (
    Subject("sheet", sheet),
    Subject("fabric", fabric),
    Subject("paper", paper),
    Subject("rubber", rubber),
    Subject("steel", steel),
    Subject("plastic", plastic),
    Subject("felt", felt),
    Subject("board", board),
    Subject("foil", foil),
    Subject("plaster", plaster),
    Subject("vinyl", vinyl),
    Subject("slate", slate),
    Subject("disc", round_disc),
    Subject("plate", plate),
    Subject("panel", panel),
    Subject("block", block),
    Subject("ring", band),
    Subject("bar", bar),
    Subject("lid", lid),
    Subject("tag", tag),
    Subject("pad", pad),
    Subject("shield", shield),
    Subject("wedge", wedge),
    Subject("hexagon", hexagon),
)
"""Plain nouns: twelve materials that fill the picture, then twelve things on a background."""


def _material(canvas: Canvas, colour: Colour, tone: Plane, height: Plane | None = None, gloss: float = 0.0) -> Surface:
    relief = np.zeros(canvas.size, np.float32) if height is None else height.astype(np.float32)
    surface = filling(shaded(canvas, colour, tone.astype(np.float32)), relief, gloss)
    # What shows through an opening stands out from the material.
    tones = (*BACKDROPS, (0.04, 0.04, 0.05), (0.92, 0.92, 0.90))
    apart = [tone for tone in tones if abs(np.mean(tone) - np.mean(colour)) > 0.3]
    return replace(surface, backdrop=flat(canvas.size, apart[canvas.rng.integers(len(apart))]))


def _diamond(x: Plane, y: Plane, reach: float) -> Plane:
    return np.float32(0.5**0.5) * (np.abs(x) + np.abs(y) - np.float32(reach))
