import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from afr_clip import doctor as command
from afr_clip.cli import doctor
from afr_clip.cli.command import CommandLineError
from helpers.trees import write_mvtec_tree


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(doctor, "BENCHMARK_SECONDS", 0.05)
    monkeypatch.setattr(doctor, "SIDE", 32)


@pytest.fixture
def examined(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    some = ["pe_core_l_14_336", "pocket", "tiny", "vit_b_32", "vit_l_14_336"]
    monkeypatch.setattr(doctor, "_backbones", lambda: some)  # a wrong file is compared with all of them

    def examine(*words: str):
        command.main(["--json", "--data-dir", str(tmp_path), "--backbone", "tiny", *words])
        return json.loads(capsys.readouterr().out)

    return examine


def test_every_section_is_plain_data_and_what_is_missing_has_advice(examined, tmp_path):
    write_mvtec_tree(tmp_path / "MPDD", ("metal_plate",), num_normal=1, num_anomalous=2)
    found = examined()
    assert list(found) == [
        "versions", "machine", "device", "disk", "weights", "datasets", "extras", "benchmark", "advice"
    ]  # fmt: skip
    assert not any("fault" in found[section] for section in found)
    assert torch.__version__.startswith(found["versions"]["torch"])
    assert found["device"]["device"] in ("cpu", "cuda")
    states = {name: one["state"] for name, one in found["datasets"].items()}
    assert (len(states), states["mpdd"], states["visa"]) == (11, "other numbers", "absent")
    assert found["benchmark"]["pocket_ms_an_image"] > 0
    assert len(found["weights"]["pocket backbone"]["sha256"]) == 64
    advice = " ".join(found["advice"])
    assert "10 are not on disk: visa, mvtec_ad, " in advice
    assert "mpdd has other numbers of images than published. Run afr-clip datasets check mpdd." in advice


def test_the_lines_for_a_terminal_name_every_section(tmp_path, capsys):
    command.main(["--data-dir", str(tmp_path), "--backbone", "tiny"])
    lines = capsys.readouterr().out.splitlines()
    assert {"versions", "extras", "benchmark", "advice"} <= set(lines)
    assert any(line.startswith("  visa ") and "absent" in line for line in lines)


@pytest.mark.parametrize(
    ("write", "fault"),
    [
        (lambda path: None, "There is no weight file"),
        (lambda path: path.write_text("<html>not found</html>"), "web page"),
        (lambda path: save_file({"a": torch.zeros(2)}, path), "1 unexpected"),
        (lambda path: save_file({"a": torch.tensor([float("nan")])}, path), "NaN or infinity"),
    ],
)
def test_a_wrong_weight_file_is_said(examined, tmp_path, write, fault):
    path = tmp_path / "weights.safetensors"
    write(path)
    found = examined("--backbone", "vit_b_32", "--weights", str(path))
    assert fault in found["weights"]["vit_b_32 --weights"]["fault"]
    assert any(fault in sentence for sentence in found["advice"])


def test_weights_that_fit_have_their_hash(examined, tmp_path, composed):
    from omegaconf import OmegaConf  # noqa: PLC0415

    from afr_clip.clip.load import load_towers  # noqa: PLC0415

    towers = load_towers(OmegaConf.to_object(composed("backbone=tiny").backbone), needs_cnn=False)
    state = {name: value.contiguous() for name, value in towers.backbone.clip.state_dict().items()}
    save_file(state, tmp_path / "tiny.safetensors")
    one = examined("--weights", str(tmp_path / "tiny.safetensors"))["weights"]["tiny --weights"]
    assert "fault" not in one
    assert len(one["sha256"]) == 64
    found = examined("--backbone", "pe_core_l_14_336", "--weights", str(tmp_path / "tiny.safetensors"))
    assert found["weights"]["pe_core_l_14_336 --weights"]["fits"] == "backbone=tiny"
    (sentence,) = [one for one in found["advice"] if one.startswith("pe_core_l_14_336 --weights")]
    assert "does not fit the chosen architecture" in sentence
    assert sentence.endswith("This file fits backbone=tiny.")


def test_published_weights_that_are_not_here_are_named_with_their_source(examined, tmp_path, monkeypatch):
    monkeypatch.setattr("afr_clip.clip.found.URL_CACHE", tmp_path / "clip")
    monkeypatch.setattr("afr_clip.clip.found.try_to_load_from_cache", lambda *_: None)
    found = examined("--backbone", "vit_l_14_336")
    assert found["weights"]["vit_l_14_336 backbone"]["file"] is None
    (sentence,) = [one for one in found["advice"] if one.startswith("vit_l_14_336 backbone")]
    assert "ViT-L-14-336px.pt is not on this machine" in sentence
    assert "backbone.weights=FILE" in sentence
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "ViT-L-14-336px.pt").write_bytes(b"half a downl")
    found = examined("--backbone", "vit_l_14_336")
    assert "ViT-L-14-336px.pt" in found["weights"]["vit_l_14_336 backbone"]["fault"]


def test_a_check_that_breaks_is_a_sentence_and_the_others_go_on(examined, monkeypatch):
    for module in ("torch", "afr_clip.clip.found", "afr_clip.cli.datasets"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it could not be imported

    def broken():
        raise RuntimeError

    monkeypatch.setattr(doctor, "_extras", broken)
    found = examined()
    assert {name for name, facts in found.items() if "fault" in facts} == {
        "device", "weights", "datasets", "extras", "benchmark"
    }  # fmt: skip
    assert found["versions"]["python"]
    assert sum(sentence.startswith("The section ") for sentence in found["advice"]) == 5


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--suite", "afr12"], "Did you mean afr11?"),
        (["--backbone", "vit_l"], "--backbone must be one of dinov2_l_14_reg, "),
    ],
)
def test_an_unknown_suite_or_backbone_is_refused(words, fault):
    with pytest.raises(CommandLineError) as caught:
        command.main(words)
    assert fault in str(caught.value)


def test_help_needs_no_torch():
    import subprocess  # noqa: PLC0415

    code = (
        "import sys\nfrom afr_clip.cli.main import main\n"
        "try:\n    main(['doctor', '--help'])\nfinally:\n    print({'torch', 'cv2'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "set()")
