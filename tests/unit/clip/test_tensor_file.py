import io
import os
import pickle
import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from afr_clip.clip import tensor_file
from afr_clip.clip.tensor_file import TensorFileError, read_tensor_file

CONTENT = {
    "format": "one",
    "weights": OrderedDict(a=torch.arange(6.0).view(2, 3), b=torch.nn.Parameter(torch.ones(2).half())),
    "transposed": torch.arange(6).view(2, 3).t(),
    "empty": torch.empty(0, 3),
    "plain": [1, -2.5, None, True, "Größe", (1, [2]), {3: 2**70}],
}


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def is_same(first: object, second: object) -> bool:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        is_alike = first.dtype == second.dtype and first.stride() == second.stride()
        return is_alike and torch.equal(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        return list(first) == list(second) and all(is_same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return type(first) is type(second) and len(first) == len(second) and all(map(is_same, first, second))
    return type(first) is type(second) and first == second


def repacked(source: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Return an archive with a changed ``data.pkl``, and checksums that fit."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(source)) as before, zipfile.ZipFile(buffer, "w") as after:
        for entry in before.infolist():
            content = before.read(entry)
            after.writestr(entry.filename, change(content) if entry.filename.endswith("data.pkl") else content)
    return buffer.getvalue()


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_was_saved_is_read_back(tmp_path, is_zip):
    torch.save(CONTENT, tmp_path / "a.ckpt", _use_new_zipfile_serialization=is_zip)
    assert is_same(read_tensor_file(tmp_path / "a.ckpt"), torch.load(tmp_path / "a.ckpt", weights_only=True))


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
def test_safetensors_are_known_by_their_name_or_their_start(tmp_path, name):
    save_file({"a": torch.arange(3)}, tmp_path / name)
    assert is_same(read_tensor_file(tmp_path / name), {"a": torch.arange(3)})


class Block(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, width, 1).half()
        self.norm = torch.nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x.half()).float())


class Model(torch.nn.Module):
    """Has what OpenAI's archives have: half precision, described sizes, and tensors that are not weights."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = torch.nn.Sequential(Block(2), torch.nn.Identity())
        self.other = Block(4)
        self.transposed = torch.nn.Parameter(torch.randn(4, 3).t())
        self.register_buffer("input_resolution", torch.tensor(224))
        self.register_buffer("mask", torch.zeros(2), persistent=False)
        self.note = torch.ones(3)
        self.names = ["a", "b"]
        self.sizes = [1, 2]
        self.scale = 2.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x) * self.scale + self.other(x)[:, :2]


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("kind", ["scripted", "traced"])
def test_a_torchscript_archive_gives_the_state_dict_that_running_it_would(tmp_path, kind):
    model = Model().eval()
    model.other.conv.bias = model.other.norm.bias if kind == "scripted" else model.other.conv.bias
    archive = torch.jit.script(model) if kind == "scripted" else torch.jit.trace(model, torch.randn(1, 3, 2, 2))
    archive.save(str(tmp_path / "a.pt"))
    read, expected = read_tensor_file(tmp_path / "a.pt"), torch.jit.load(str(tmp_path / "a.pt")).state_dict()
    assert is_same(dict(sorted(read.items())), dict(sorted(expected.items())))
    assert {"visual.0.conv.weight", "input_resolution", "transposed"} <= read.keys()
    tied = read["other.conv.bias"].data_ptr() == read["other.norm.bias"].data_ptr()
    assert tied == (kind == "scripted")


class Restoring(torch.nn.Module):
    """Writes a file when it is restored."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.weight = state[0]
        self.training = state[1]
        torch.save(state[0], "written")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_the_code_of_a_torchscript_archive_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Restoring()).save("a.pt")
    Path("written").unlink(missing_ok=True)
    with pytest.raises(TensorFileError, match=r"a\.pt could not be read: its modules restore themselves with code"):
        read_tensor_file(Path("a.pt"))
    assert not Path("written").exists()
    torch.jit.load("a.pt")
    assert Path("written").exists()  # the archive does what it is meant to do


class Calls:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("form", ["torch.save", "legacy", "pickle"])
@pytest.mark.parametrize(
    "value",
    [
        Calls(os.system, "touch written"),
        Calls(eval, "open('written', 'w')"),
        Calls(getattr, "", "join"),
        Calls(torch.load, "written"),
        Path("x"),
        torch.nn.Linear,
    ],
    ids=["system", "eval", "getattr", "load", "path", "class"],
)
def test_a_pickle_calls_nothing(tmp_path, monkeypatch, form, value):
    monkeypatch.chdir(tmp_path)
    if form == "pickle":
        Path("a.pt").write_bytes(pickle.dumps({"a": value}))
    else:
        torch.save({"a": value}, "a.pt", _use_new_zipfile_serialization=form == "torch.save")
    with pytest.raises(
        TensorFileError, match=r"it (refers to \S+|holds a type), which is neither|it is .*a pickle|no file of tensors"
    ):
        read_tensor_file(Path("a.pt"))
    assert [path.name for path in Path().iterdir()] == ["a.pt"]


SHAPE = b"K\x00K\x02K\x03\x86q"
"""Offset 0, shape (2, 3) of the first tensor."""

HOSTILE = {
    "more than its storage": (lambda p: p.replace(SHAPE, b"K\x00K\x02K\x04\x86q"), r"shape \(2, 4\), but its storage"),
    "behind its storage": (lambda p: p.replace(SHAPE, b"K\x01K\x02K\x03\x86q"), r"shape \(2, 3\), but its storage"),
    "terabytes": (
        lambda p: p.replace(SHAPE, b"K\x00K\x02\x8a\x06\x00\x00\x00\x00\x00\x01\x86q"),
        "but its storage holds",
    ),
    "negative": (lambda p: p.replace(SHAPE, b"K\x00K\x02J\xff\xff\xff\xff\x86q"), "is not made of numbers"),
    "text": (lambda p: p.replace(SHAPE, b"K\x00K\x02N\x86q"), "(is not made of numbers|damaged)"),
    "another storage": (lambda p: p.replace(b"X\x01\x00\x00\x000q", b"X\x01\x00\x00\x007q"), "damaged"),
    "another name": (lambda p: p.replace(b"FloatStorage", b"FloatStoragf"), r"refers to torch\.FloatStoragf"),
    "a huge memo": (lambda p: p[:-1] + b"r\xff\xff\xff\xff.", "take more places"),
    "itself": (lambda p: b"\x80\x02]q\x00h\x00a.", "contain each other"),
    "doubled 40 times": (lambda p: b"\x80\x02]" + b"q\x00]h\x00ah\x00a" * 40 + b".", "contain each other"),
    "nothing": (lambda p: b"", "damaged"),
}


@pytest.mark.parametrize(("change", "fault"), HOSTILE.values(), ids=HOSTILE.keys())
def test_what_data_claims_is_compared_with_what_is_there(tmp_path, change, fault):
    path = tmp_path / "a.ckpt"
    path.write_bytes(repacked(saved(CONTENT), lambda content: content))
    assert is_same(read_tensor_file(path)["weights"]["a"], CONTENT["weights"]["a"])
    path.write_bytes(repacked(saved(CONTENT), change))
    with pytest.raises(TensorFileError, match=rf"a\.ckpt could not be read: .*{fault}"):
        read_tensor_file(path)


def test_any_flipped_bit_is_found_or_changes_nothing(tmp_path):
    whole, path, draw = saved(CONTENT), tmp_path / "a.ckpt", random.Random(0)
    path.write_bytes(whole)
    expected, num_found = read_tensor_file(path), 0
    places = draw.sample(range(len(whole)), 100)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :])
        try:
            assert is_same(read_tensor_file(path), expected), place
        except TensorFileError:
            num_found += 1
    assert 30 < num_found < 100  # between the files of the archive, and in names that nobody reads, lies nothing


def test_a_file_that_was_cut_off_is_found(tmp_path):
    whole, path = saved(CONTENT), tmp_path / "a.ckpt"
    for size in {*range(0, len(whole), 97), *range(len(whole) - 30, len(whole))}:
        path.write_bytes(whole[:size])
        with pytest.raises(TensorFileError, match=r"a\.ckpt could not be read: it is"):
            read_tensor_file(path)


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(TensorFileError, match=r"could not be read: it is a folder"):
        read_tensor_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_tensor_file(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_an_archive_whose_code_is_missing_is_not_half_a_model(tmp_path):
    torch.jit.script(Model().eval()).save(str(tmp_path / "a.pt"))
    with zipfile.ZipFile(tmp_path / "a.pt") as before, zipfile.ZipFile(tmp_path / "b.pt", "w") as after:
        for entry in before.infolist():
            if not entry.filename.endswith("batchnorm.py"):
                after.writestr(entry.filename, before.read(entry))
    with pytest.raises(TensorFileError, match="its code does not say which of its tensors are weights"):
        read_tensor_file(tmp_path / "b.pt")


def test_modules_that_were_saved_whole_are_read_as_their_state_dict(tmp_path):
    saved = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    saved[0].register_buffer("scratch", torch.ones(2), persistent=False)
    torch.save(saved, tmp_path / "a.pt")
    read, expected = read_tensor_file(tmp_path / "a.pt"), saved.state_dict()
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], value) for name, value in expected.items())


@pytest.mark.parametrize("ends", [True, False])
def test_modules_that_hold_each_other_are_refused(tmp_path, monkeypatch, ends):
    monkeypatch.setattr(tensor_file, "MAX_VALUES", 20_000)  # not all of its 2^60 paths are walked
    first = inner = torch.nn.Sequential()
    for _ in range(60):
        following = torch.nn.Sequential()
        inner._modules |= {"0": following, "1": following}
        inner = following
    if not ends:
        inner._modules |= {"0": first}
    torch.save(first, tmp_path / "a.pt")
    with pytest.raises(TensorFileError, match="its modules contain each other"):
        read_tensor_file(tmp_path / "a.pt")
