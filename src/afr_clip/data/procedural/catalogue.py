"""The categories of the drawn datasets."""

from collections.abc import Mapping

from afr_clip.data.procedural.auxiliary_objects import AUXILIARY_OBJECTS
from afr_clip.data.procedural.auxiliary_subjects import AUXILIARY_SUBJECTS
from afr_clip.data.procedural.auxiliary_textures import AUXILIARY_TEXTURES
from afr_clip.data.procedural.catalogue_entry import Category
from afr_clip.data.procedural.settings import DrawnSet
from afr_clip.data.procedural.unseen_objects import UNSEEN_OBJECTS
from afr_clip.data.procedural.unseen_textures import UNSEEN_TEXTURES

CATEGORIES: Mapping[DrawnSet, tuple[Category, ...]] = {
    DrawnSet.auxiliary: AUXILIARY_TEXTURES + AUXILIARY_OBJECTS + AUXILIARY_SUBJECTS,
    DrawnSet.unseen: UNSEEN_TEXTURES + UNSEEN_OBJECTS,
}
"""Every category that can be drawn, by set."""
