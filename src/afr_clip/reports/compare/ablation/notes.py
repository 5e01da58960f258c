"""What must be said beside an ablation, worked out from what was measured."""

from collections.abc import Iterable, Iterator, Sequence

from afr_clip.reports.compare.ablation.bootstrap import NUM_RESAMPLES
from afr_clip.reports.compare.ablation.measure import Ablation, Block, Paired, Row, same_images
from afr_clip.reports.compare.ablation.tables import PAPER_BLOCK, SHOWN, AblationTable
from afr_clip.reports.compare.aggregate import MeasuredSetting
from afr_clip.reports.compare.notes import notices_of

PAPER = f"The paper's tables 3 to 6 are about {PAPER_BLOCK[0]} after training on {PAPER_BLOCK[1]}."

INTERVALS = (
    "A number with \N{PLUS-MINUS SIGN} is the mean over seeds with its sample standard deviation and, in brackets, the "
    "number of seeds; one without is of one seed. \N{GREEK CAPITAL LETTER DELTA} reference is the setting minus the "
    "reference with the same seed in the same category, in percentage points, averaged over these pairs. Its brackets "
    f"hold a 95 % bootstrap interval: percentiles of {NUM_RESAMPLES:,} means, for each of which seeds and categories "
    "are drawn again, with replacement and independently of each other. An axis with one entry is not drawn, and then "
    "the interval says nothing about it. As far as seeds go, an interval over two or three of them is too narrow."
)

FOR_ORIENTATION = (
    f"Numbers of the paper in brackets are those for {PAPER_BLOCK[0]} after training on {PAPER_BLOCK[1]}. They are not "
    "comparable with what stands beside them, and are there for orientation only."
)


def ablation_notices(ablations: Sequence[Ablation]) -> list[tuple[str, str]]:
    """Say what must be known before a number is read: each with a word of warning, empty for a remark.

    Args:
        ablations: Everything on the page.

    Returns:
        Notices about backbones, about parts of test splits, and about settings that are none.
    """
    tables = [AblationTable(ablation) for ablation in ablations]
    settings = [setting for table in tables for setting in _by_backbone(table)]
    same = [
        f"{table.title.split(':', maxsplit=1)[0]}: {row.label}"
        for table in tables
        for row in table.ablation.rows
        if table.differs_in(row) == "nothing"
    ]
    said = f"The runs recorded the same config as their reference: {'; '.join(same)}. Look at their overrides."
    return [*notices_of(settings), *([("Settings that differ in nothing.", said)] if same else [])]


def table_notes(table: AblationTable) -> list[str]:
    """Say what explains one table.

    Args:
        table: Which one.

    Returns:
        Sentences: what is missing and why, what was left out of the differences, what is undefined.
    """
    if not table.ablation.rows:
        about = " after training on ".join(PAPER_BLOCK)
        return [f"Nothing has been measured yet: these are the paper's numbers of {about}."]
    rows = table.ablation.rows
    notes = list(_missing(rows))
    reference = table.ablation.reference
    if reference is None or not reference.datasets:
        name = table.ablation.experiment.reference
        notes.append(f"The reference, {name}, has no numbers, so there is no difference to it.")
    for block in table.blocks:
        notes += _of_block(table, block)
    return notes


def _by_backbone(table: AblationTable) -> Iterator[MeasuredSetting]:
    groups: dict[str, list[Row]] = {}
    for row in table.ablation.rows:
        if row.setting is not None:
            groups.setdefault(row.setting.short_label, []).append(row)
    for rows in groups.values():
        setting = rows[0].setting
        assert setting is not None
        yield MeasuredSetting(setting, table.title, tuple(d for row in rows for d in row.datasets.values()), {})


def _missing(rows: Sequence[Row]) -> Iterator[str]:
    said = [
        f"{row.label}, seed {cell.seed} ({reason.rstrip('.')})" for row in rows for cell, reason in row.missing.items()
    ]
    if said:
        yield f"Without numbers: {'; '.join(said)}."
    never = [row.label for row in rows if not row.cells]
    if never:
        yield f"Not run: {'; '.join(never)}."
    absent: dict[str, str] = {}
    for row in rows:
        scored = {title for title, _ in row.datasets}
        absent |= {title: reason for title, reason in row.absent.items() if title not in scored}
    if absent:
        reasons = [f"{title} ({reason.rstrip('.')})" for title, reason in absent.items()]
        yield f"Absent: {'; '.join(reasons)}."


def _of_block(table: AblationTable, block: Block) -> Iterator[str]:
    name = f"{block[0]} after training on {block[1]}"
    if any(not table.is_comparable(row, block) for row in table.ablation.rows if block in row.datasets):
        yield f"{name}: the paper's numbers in brackets are not comparable and are there for orientation only."
    pairs = [
        (row, metric, paired)
        for row in table.ablation.rows
        for metric in SHOWN
        if (paired := table.ablation.paired(row, block, metric)) is not None
    ]
    yield from _over(name, pairs)
    left_out = _merged((_counted(paired), row, metric) for row, metric, paired in pairs if paired.num_left_out)
    if left_out:
        yield f"{name}: incomplete pairs of seed and category are left out of the difference: {left_out}."
    undefined = _merged(
        (f"in {', '.join(names)}", row, metric)
        for row in table.ablation.rows
        if block in row.datasets
        for metric in SHOWN
        if (names := row.undefined(block, metric))
    )
    if undefined:
        yield f"{name}: undefined, and so in no mean and no difference: {undefined}."
    other = [row.label for row in table.ablation.rows if _stands_on_others(table.ablation, row, block)]
    if other:
        yield f"{name}: not on the images of the reference, so without a difference to it: {', '.join(other)}."


def _over(name: str, pairs: Sequence[tuple[Row, str, Paired]]) -> Iterator[str]:
    """Say of which differences the interval lacks an axis, or of which there is none."""
    said = _merged(
        (_LACKING[len(paired.seeds) > 1, len(paired.categories) > 1], row, metric)
        for row, metric, paired in pairs
        if len(paired.seeds) == 1 or len(paired.categories) == 1
    )
    if said:
        yield f"{name}: not every interval is over seeds and categories: {said}."


_LACKING = {
    (False, True): "with one common seed, over categories only, which says nothing about other seeds",
    (True, False): "with one category, over seeds only, which says nothing about other categories",
    (False, False): "with one common seed and one category, without an interval",
}
"""What to say of an interval, by whether there are several seeds and several categories."""


def _counted(paired: Paired) -> str:
    seeds = "" if paired.seeds == (None,) else f" with seed {', '.join(map(str, paired.seeds))}"
    num = paired.num_left_out + len(paired.seeds) * len(paired.categories)
    return f"{paired.num_left_out} of {num}, which leaves {len(paired.categories)} categories{seeds}"


def _merged(said: Iterable[tuple[str, Row, str]]) -> str:
    """Say what holds for several settings and metrics once for all of them."""
    metrics: dict[tuple[str, Row], list[str]] = {}
    for what, row, metric in said:
        metrics.setdefault((what, row), []).append(SHOWN[metric])
    settings: dict[tuple[str, str], list[str]] = {}
    for (what, row), names in metrics.items():
        settings.setdefault((" and ".join(names), what), []).append(row.label)
    return "; ".join(f"{names} of {', '.join(labels)} {what}" for (names, what), labels in settings.items())


def _stands_on_others(ablation: Ablation, row: Row, block: Block) -> bool:
    reference = ablation.reference
    both = reference is not None and block in row.datasets and block in reference.datasets
    return both and reference is not None and not same_images(row.datasets[block], reference.datasets[block])
