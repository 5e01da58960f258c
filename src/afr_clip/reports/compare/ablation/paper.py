"""Tables 3 to 6 of the paper: which setting is which of its rows."""

from collections.abc import Iterable

from afr_clip.reports.compare.paper import PaperDataset, find_dataset, paper_values

TITLES = {
    "table3": "Table 3: components",
    "table4": "Table 4: stages with self prompting",
    "table5": "Table 5: parts of the prompt",
    "table6": "Table 6: window of the aggregation",
    "readings": "Readings of what the paper leaves open",
}
"""What each experiment shows."""

REFERENCES = {
    "table3": "table3_full",
    "table4": "table4_stages_1",
    "table5": "table5_both",
    "table6": "table6_3",
    "readings": "full",
}
"""The full model of each experiment, with which its settings are compared."""

FULL = "full"
READING = "reading_"

_LABELS = {
    "table3_baseline": "none",
    "table3_sp_mpfa": "SP + MPFA",
    "table3_cmfr": "CMFR",
    "table3_cmfr_sp": "CMFR + SP",
    "table3_cmfr_mpfa": "CMFR + MPFA",
    "table3_full": "CMFR + SP + MPFA",
    "table4_stages_1": "stage 1",
    "table4_stages_1_2": "stages 1-2",
    "table4_stages_1_3": "stages 1-3",
    "table4_stages_1_4": "stages 1-4",
    "table5_none": "no prompt",
    "table5_image": "P_v, of the image",
    "table5_shared": "P_l, shared",
    "table5_both": "P_v + P_l",
    "table6_1": "m = 1",
    "table6_3": "m = 3",
    "table6_5": "m = 5",
    "full": "as read",
}
"""Names of the settings for readers, in the order of the paper's rows."""

_PAPER_NAMES = {
    "table3_baseline": "baseline",
    "table3_sp_mpfa": "sp+mpfa",
    "table3_cmfr": "cmfr",
    "table3_cmfr_sp": "cmfr+sp",
    "table3_cmfr_mpfa": "cmfr+mpfa",
    "table3_full": "cmfr+sp+mpfa",
    "table4_stages_1": "stages 1",
    "table4_stages_1_2": "stages 1-2",
    "table4_stages_1_3": "stages 1-3",
    "table4_stages_1_4": "stages 1-4",
    "table5_none": "no prompt",
    "table5_image": "P_v",
    "table5_shared": "P_l",
    "table5_both": "P_v+P_l",
    "table6_1": "m=1",
    "table6_3": "m=3",
    "table6_5": "m=5",
    "full": "cmfr+sp+mpfa",
}
"""What `paper_results.csv` calls them; the reading that is the default is table 3's full model."""

PAPER_TARGET = "MVTec AD"


def target_of_the_paper() -> PaperDataset:
    """Return the dataset that tables 3 to 6 are about; it is scored after training on VisA."""
    found = find_dataset(PAPER_TARGET)
    assert found is not None
    return found


def title_of(experiment: str) -> str:
    """Say what an experiment shows; one that is not of the paper goes by its own name."""
    return TITLES.get(experiment, experiment)


def label_of(setting: str) -> str:
    """Name a setting for readers."""
    return _LABELS.get(setting, setting.removeprefix(READING).replace("_", " "))


def settings_of(experiment: str) -> list[str]:
    """Name the settings of one of the paper's tables in its order; none for another experiment."""
    return [name for name in _LABELS if name.startswith(f"{experiment}_")]


def in_order(settings: Iterable[str], reference: str) -> list[str]:
    """Bring settings into the order in which they are shown.

    Args:
        settings: Of one experiment, in any order.
        reference: The one that the others are compared with.

    Returns:
        As the paper has them; what it does not have after that by name, but the reference first.
    """
    known = list(_LABELS)
    return sorted(
        set(settings), key=lambda name: (known.index(name) if name in known else len(known), name != reference, name)
    )


def paper_value(setting: str, metric: str) -> float | None:
    """Return the paper's number.

    Args:
        setting: By its name.
        metric: With its level.

    Returns:
        Percent on MVTec AD after training on VisA; ``None`` where the paper has none.

    Example:
        >>> paper_value("table3_cmfr", "image_auroc"), paper_value("reading_append", "image_auroc")
        (92.1, None)
    """
    number = 3 if setting == FULL else int(setting[5]) if setting in _PAPER_NAMES else 0
    return paper_values().get((number, _PAPER_NAMES.get(setting, ""), PAPER_TARGET, metric))


def experiment_of(ablation: str) -> str | None:
    """Name the experiment to which a run with ``ablation=NAME`` belongs.

    Args:
        ablation: What was chosen.

    Returns:
        ``table3`` to ``table6`` or ``readings``; ``None`` for any other choice. The full model belongs to none, because
        every run without a choice is one.
    """
    if ablation.startswith(READING):
        return "readings"
    return ablation.split("_", maxsplit=1)[0] if ablation in _PAPER_NAMES and ablation != FULL else None
