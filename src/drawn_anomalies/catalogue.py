"""The categories of the drawn datasets."""

from collections.abc import Mapping

from drawn_anomalies.auxiliary_objects import AUXILIARY_OBJECTS
from drawn_anomalies.auxiliary_subjects import AUXILIARY_SUBJECTS
from drawn_anomalies.auxiliary_textures import AUXILIARY_TEXTURES
from drawn_anomalies.catalogue_entry import Category
from drawn_anomalies.settings import DrawnSet
from drawn_anomalies.unseen_objects import UNSEEN_OBJECTS
from drawn_anomalies.unseen_textures import UNSEEN_TEXTURES

CATEGORIES: Mapping[DrawnSet, tuple[Category, ...]] = {
    DrawnSet.auxiliary: AUXILIARY_TEXTURES + AUXILIARY_OBJECTS + AUXILIARY_SUBJECTS,
    DrawnSet.unseen: UNSEEN_TEXTURES + UNSEEN_OBJECTS,
}
"""Every category that can be drawn, by set."""
