"""Models are written to a hub on this machine, read again, and kept for when there is none."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from safetensors.torch import load_file

import afr_clip
from afr_clip import hub as command
from afr_clip.clip.hub import HubError, download, parse_place
from afr_clip.clip.weights import weight_path
from afr_clip.models.checkpoint import CheckpointError, public_manifest, read_checkpoint
from afr_clip.reports.record.run_folder import RunFolderError
from helpers.hub import TOKEN, local_hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # the hub's own client, of its own

OLD_RUN = Path(__file__).parents[2] / "fixtures" / "version_0_1" / "whole"

SHIPPED = read_checkpoint(weight_path("package:afr_clip/pocket/demo.ckpt"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub, an empty cache, and a token that may write."""
    with local_hub() as started:
        for name, value in {
            "ENDPOINT": started.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": f"{started.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_PROGRESS_BARS": True,
        }.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield started


def push(*words: str) -> None:
    command.main(["push", "pocket", "anna/nuts", "--licence", "Apache-2.0", *words])


def test_a_model_comes_back_from_the_hub_with_the_same_weights_and_scores(hub, capsys):
    push()
    assert capsys.readouterr().out == f"model: {hub.address}/anna/nuts\n"
    (files,) = hub.models["anna/nuts"]
    assert set(files) == {"model.safetensors", "config.json", "README.md"}
    command.main(["pull", "anna/nuts"])
    folder = Path(capsys.readouterr().out.removeprefix("model: ").strip())
    assert not (folder / "README.md").exists()
    read = read_checkpoint(folder)
    assert read.state_dict.keys() == SHIPPED.state_dict.keys()
    assert all(torch.equal(read.state_dict[name], value) for name, value in SHIPPED.state_dict.items())
    assert read_checkpoint(read.path).manifest == read.manifest  # as a finished run names it
    picture = torch.randint(256, (3, 90, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours, theirs = (afr_clip.load(name).inspect(picture, "nut") for name in ("pocket", "hf:anna/nuts"))
    assert (ours.anomaly_map == theirs.anomaly_map).all()
    assert ours.image_score == theirs.image_score


def test_what_is_in_the_cache_is_taken_without_asking_the_hub(hub, monkeypatch):
    push()
    first = download("hf:anna/nuts", ("model.safetensors", "config.json"))
    hub.asked.clear()
    assert download("hf:anna/nuts", ("model.safetensors", "config.json")) == first
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert download("hf:anna/nuts", ("model.safetensors", "config.json")) == first
    assert download("hf:anna/nuts", ("model.safetensors", "config.json"), refresh=True) == first
    with pytest.raises(FileNotFoundError, match="anna/bolts is not in the cache of the hub, and HF_HUB_OFFLINE is set"):
        afr_clip.load("hf:anna/bolts")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set, so nothing can be uploaded"):
        push()
    assert hub.asked == []


def test_pull_brings_a_newer_version_and_a_revision_brings_an_older_one(hub, tmp_path, capsys):
    push()
    command.main(["pull", "anna/nuts"])
    command.main(["push", "pocket_names", "anna/nuts", "--licence", "apache-2.0"])
    stale = read_checkpoint(download("anna/nuts", ("model.safetensors", "config.json")))
    assert stale.manifest["trained_on"]["name"] == "demo"
    command.main(["pull", "anna/nuts", "--folder", str(tmp_path / "new")])
    command.main(["pull", f"anna/nuts@{hub.commit('anna/nuts', 0)}", "--folder", str(tmp_path / "old")])
    names = {one: read_checkpoint(tmp_path / one).manifest["trained_on"]["name"] for one in ("new", "old")}
    assert names == {"new": "demo_with_names", "old": "demo"}
    assert capsys.readouterr().out.endswith(f"model: {tmp_path / 'old'}\n")


def test_a_private_model_is_refused_without_a_token(hub, monkeypatch):
    push("--private")
    assert hub.is_private == {"anna/nuts": True}
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(
        HubError, match=r"it does not exist, or it is private and you are not logged in. Log in with `hf auth"
    ):
        afr_clip.load("hf:anna/nuts")
    with pytest.raises(HubError, match="you are not logged in"):
        push()


def test_a_hub_that_lacks_the_model_or_does_not_answer_is_named(hub, monkeypatch):
    with pytest.raises(FileNotFoundError, match="hf:anna/none on the hub cannot be used: there is none of this name"):
        afr_clip.load("hf:anna/none")
    push()
    with pytest.raises(FileNotFoundError, match="none of this name or revision"):
        afr_clip.load("hf:anna/nuts@v9")
    hub.models["anna/nuts"][0].pop("model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"anna/nuts on the hub holds no model.safetensors"):
        afr_clip.load("hf:anna/nuts")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("afr_clip.clip.weights.ANSWER_SECONDS", 0.1)
    with pytest.raises(HubError, match=r"The hub at http://127.0.0.1:9 does not answer"):
        afr_clip.load("hf:anna/others")


@pytest.mark.parametrize("place", ["nuts", "hf:", "a/b/c", "anna/../x", "anna/nuts@", "https://hub/anna/nuts", "a b/c"])
def test_what_is_no_place_on_the_hub_is_refused(place):
    with pytest.raises(HubError, match="A model on the hub is called OWNER/NAME, got"):
        parse_place(place)


def test_a_place_with_a_revision_and_a_strange_licence_are_refused():
    with pytest.raises(HubError, match="Leave out @v1"):
        command.main(["push", "pocket", "anna/nuts@v1", "--licence", "mit"])
    with pytest.raises(HubError, match="--licence must be an abbreviation"):
        command.main(["push", "pocket", "anna/nuts", "--licence", "all rights reserved\nx: y"])


def test_the_card_shows_the_results_of_these_weights_and_no_folder_of_the_machine(tmp_path, capsys):
    folder = tmp_path / "model"
    command.main(["push", str(OLD_RUN), "anna/nuts", "--licence", "cc-by-nc-sa-4.0", "--folder", str(folder)])
    assert capsys.readouterr().out == f"model: {folder}\n"
    card = (folder / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["license"] == "cc-by-nc-sa-4.0"
    results = json.loads((OLD_RUN / "results.json").read_text())["results"]
    means = {row["metric"]: 100 * row["value"] for row in results if row["category"] == "mean"}
    (line,) = [line for line in body.splitlines() if line.startswith("| mean |")]
    assert [float(cell) for cell in line.split("|")[2:5]] == pytest.approx(
        [means[metric] for metric in ("image_auroc", "image_ap", "image_f1_max")], abs=0.05
    )
    assert "The backbone tiny (afr-clip-tiny) was never trained." in body
    assert "demo\\_unseen" in body or "demo_unseen, 135 normal and 135 anomalous images" in body
    assert all(part in body for part in ('afr_clip.load("hf:anna/nuts")', "## Intended use", "## Limits", "## Licence"))
    written = "".join((folder / name).read_text() for name in ("config.json", "README.md"))
    manifest = json.loads((OLD_RUN / "manifest.json").read_text())
    assert manifest["config"]["run_dir"] not in written
    assert manifest["machine"]["system"] not in written
    assert load_file(folder / "model.safetensors").keys() == read_checkpoint(OLD_RUN).state_dict.keys()


def test_results_of_other_weights_are_refused(tmp_path):
    with pytest.raises(RunFolderError, match="was scored with other weights than"):
        push("--folder", str(tmp_path / "model"), "--results", str(OLD_RUN))
    with pytest.raises(RunFolderError, match=r"holds no results.json. Name the folder of an evaluate run"):
        push("--folder", str(tmp_path / "model"), "--results", str(tmp_path))


def test_only_names_of_files_are_told_of_paths():
    config = {
        "backbone": {"name": "own", "weights": "/home/anna/secret/clip.pt", "cnn": {"weights": "package:a/b.pth"}},
        "module": {"name": "april_gan", "network": {"released_weights": "/mnt/x.pth", "prompts": "a/b"}},
    }
    manifest = {
        "config": {**config, "run_dir": "/x"},
        "machine": {},
        "trained_on": {"root": "/mnt/data/visa", "name": "visa"},
    }
    public = public_manifest(manifest)
    assert public["config"] == {
        "backbone": {"name": "own", "weights": "clip.pt", "cnn": {"weights": "package:a/b.pth"}},
        "module": {"name": "april_gan", "network": {"released_weights": "x.pth", "prompts": "a/b"}},
    }
    assert public["trained_on"] == {"root": "visa", "name": "visa"}
    assert "machine" not in public


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("[1", "it is not JSON"),
        ("[]", "it holds no object"),
        ("[" * 100_000, "it is not JSON"),
        ('{"format": "afr-clip-adapters-1"}', "manifest is missing"),
        ('{"format": "other", "manifest": {}}', "format must be afr-clip-adapters-1"),
    ],
)
def test_a_config_from_a_stranger_that_is_none_is_refused(tmp_path, content, fault):
    push("--folder", str(tmp_path / "model"))
    (tmp_path / "model" / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=fault):
        read_checkpoint(tmp_path / "model")


def test_a_folder_of_a_run_keeps_its_own_checkpoint(tmp_path):
    push("--folder", str(tmp_path / "run"))
    (tmp_path / "run" / "checkpoints").mkdir()
    shutil.copy(OLD_RUN / "checkpoints" / "last.ckpt", tmp_path / "run" / "checkpoints")
    assert read_checkpoint(tmp_path / "run").path.name == "last.ckpt"
