"""Everything measured as one tidy table: a row for each run, dataset, category and metric."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from afr_clip.files import shown, written_whole
from afr_clip.reports.compare.values import NO_SEED, Measured
from afr_clip.reports.layout.text import write_records
from afr_clip.reports.record.results import MEAN_ROW

VALUES_CSV, VALUES_PARQUET = "values.csv", "values.parquet"

_FROM_VALUES = {
    "run": "run",
    "series_label": "setting",
    "method": "method",
    "backbone": "backbone",
    "random_weights": "random_weights",
    "target": "dataset",
    "target_sha256": "dataset_sha256",
    "trained_on": "trained_on",
    "auxiliary_sha256": "trained_on_sha256",
    "seed": "seed",
    "category": "category",
    "is_mean": "is_mean",
    "metric": "metric",
    "value": "value",
    "num_normal": "num_normal",
    "num_anomalous": "num_anomalous",
}
"""What the columns of `Measured.values` are called here."""

_OF_RUNS = (
    *("commit", "started", "precision", "trainable_parameters"),
    *("milliseconds_per_image", "peak_memory_mib", "device", "threads", "batch_size", "image_size"),
)
"""Further columns, from the manifest; empty where it does not tell."""


class NoParquetError(ValueError):
    """Parquet was asked for without the package that writes it."""


def require_parquet() -> None:
    """Raise ``NoParquetError`` if pyarrow is not installed; does not import it."""
    if importlib.util.find_spec("pyarrow") is None:
        msg = "--parquet needs the package pyarrow, which is not installed. Run pip install 'afr-clip[parquet]'."
        raise NoParquetError(msg)


def tidy(measured: Sequence[Measured]) -> pd.DataFrame:
    """Combine the values of reports, in percent; a run that several of them have is there once."""
    tables = [one.values for one in measured if len(one.values)]
    if not tables:
        return pd.DataFrame(columns=[*_FROM_VALUES.values(), *_OF_RUNS])
    values = pd.concat(tables, ignore_index=True).drop_duplicates(["run", "name", "row", "metric"])
    facts = {(str(run.folder), name): _facts(run.manifest, name) for one in measured for series in one.series
             for run in series.runs for name in (run.manifest.get("targets") or {})}  # fmt: skip
    found = pd.DataFrame([facts[place] for place in zip(values.run, values.name, strict=True)], index=values.index)
    values = values.assign(is_mean=(values.row == MEAN_ROW).astype(int), value=100 * values.value)
    values["seed"] = values.seed.astype("Int64").mask(values.seed == NO_SEED)
    values["run"] = values.run.map(shown)
    return values[list(_FROM_VALUES)].rename(columns=_FROM_VALUES).join(found)


def _facts(manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    known = {
        "commit": (manifest.get("commit") or {}).get("hash"),
        "precision": (manifest.get("precision") or {}).get("chosen"),
        **{key: manifest.get(key) for key in ("started", "trainable_parameters")},
        **((manifest.get("cost") or {}).get(name) or {}),
    }
    return {key: known.get(key) for key in _OF_RUNS}


def write_values(measured: Sequence[Measured], out: Path, *, with_parquet: bool = False) -> None:
    """Write the tidy table as CSV, and on request as Parquet; see `require_parquet`."""
    table = tidy(measured)
    write_records(out / VALUES_CSV, table, list(table.columns))
    if with_parquet:
        require_parquet()
        with written_whole(out / VALUES_PARQUET) as unfinished:
            table.to_parquet(unfinished, engine="pyarrow", index=False)
