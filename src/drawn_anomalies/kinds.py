"""The kinds of defects by name, and what a caption calls them."""

from collections.abc import Mapping

from drawn_anomalies import damage, marks
from drawn_anomalies.flaw import Defect

DEFECTS: Mapping[str, Defect] = {
    "scratch": marks.scratch,
    "stain": marks.stain,
    "contamination": marks.contamination,
    "discolouration": marks.discolouration,
    "fibre": marks.fibre,
    "misprint": marks.misprint,
    "hole": damage.hole,
    "cut": damage.cut,
    "dent": damage.dent,
    "missing_part": damage.missing_part,
    "crack": damage.crack,
    "warp": damage.warp,
    "corrosion": damage.corrosion,
    "chip": damage.chip,
    "fold": damage.fold,
}
"""Every kind of defect that can be drawn."""

HELD_OUT = ("crack", "fibre", "misprint", "warp", "corrosion")
"""Kinds that only the unseen set shows: neither the auxiliary set nor the pre-training draws them."""
