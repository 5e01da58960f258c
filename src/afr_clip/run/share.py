"""Share a trained model on the Hugging Face Hub, or in a folder of the same form."""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from afr_clip.clip.hub import HubError, download, parse_place, upload
from afr_clip.data.disk.layouts import DATASETS
from afr_clip.files import shown
from afr_clip.models.checkpoint import CONFIG, WEIGHTS, find_checkpoint, read_checkpoint, write_shared
from afr_clip.reports.model_card import SharedModel, model_card, results_of
from afr_clip.reports.record.results import RESULTS
from afr_clip.reports.record.run_folder import write_text

CARD = "README.md"

LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def push(
    name: str, place: str, licence: str, runs: Sequence[Path], *, folder: Path | None = None, is_private: bool = False
) -> None:
    """Write weights, config and card of a checkpoint, and upload them unless a folder is named.

    Args:
        name: The checkpoint, see `find_checkpoint`.
        place: ``OWNER/NAME`` on the hub.
        licence: Of the weights, as the hub abbreviates it.
        runs: Folders with results of this checkpoint, in addition to those of its own run.
        folder: Where to write the files, which are not uploaded then.

    Raises:
        HubError: If the place is not ``OWNER/NAME``, the licence is no abbreviation, or the hub refuses.
        CheckpointError: If the checkpoint cannot be read.
        RunFolderError: If results belong to other weights.
    """
    repository, revision = parse_place(place)
    if revision is not None:
        msg = f"A model is uploaded to OWNER/NAME, got {shown(place)}. Leave out @{shown(revision)}."
        raise HubError(msg)
    if LICENCE.fullmatch(licence) is None:
        msg = (
            f"--licence must be an abbreviation such as apache-2.0 or cc-by-nc-sa-4.0, got {shown(licence)}. Write "
            f"other for a licence without one."
        )
        raise HubError(msg)
    path = find_checkpoint(name)
    checkpoint = read_checkpoint(path)
    own = [path] if (path / RESULTS).is_file() else []
    results = list(results_of(checkpoint.path, [*own, *runs]))
    with TemporaryDirectory() as scratch:
        target = folder or Path(scratch)
        write_shared(checkpoint, target)
        shared = read_checkpoint(target)
        trained_on = str((shared.manifest.get("auxiliary") or {}).get("name"))
        row = DATASETS.get(trained_on)
        data = {}
        if row is not None and row.provenance is not None:
            data = {"title": row.title, "source": row.provenance.source, "licence": row.provenance.licence}
        image_size = int(shared.manifest["config"]["backbone"]["image_size"])
        card = model_card(SharedModel(repository, licence, shared.manifest, image_size, data), results)
        write_text(target / CARD, card)
        if folder is not None:
            sys.stdout.write(f"model: {folder}\n")
            return
        address = upload(target, (WEIGHTS, CONFIG, CARD), repository, is_private=is_private)
    sys.stdout.write(f"model: {address}\n")


def pull(place: str, *, folder: Path | None = None) -> None:
    """Download the newest version of a model into the cache of the hub, check it, and print where it is.

    Args:
        place: ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.
        folder: Where to copy it.

    Raises:
        HubError: If the hub refuses.
        FileNotFoundError: If there is no such model.
        CheckpointError: If it is none of ours, or damaged.
    """
    found = download(place, (WEIGHTS, CONFIG), refresh=True)
    read_checkpoint(found)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for file in (WEIGHTS, CONFIG):
            shutil.copyfile(found / file, folder / file)
    sys.stdout.write(f"model: {folder or found}\n")
