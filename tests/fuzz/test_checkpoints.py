import copy
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from afr_clip.clip.weights import read_state_dict
from afr_clip.models.checkpoint import FORMAT, CheckpointError, load_adapters, read_checkpoint
from helpers.fuzzing import Refused, fuzzed, outcome
from helpers.mutations import damaged, damaged_tree, odd_values
from helpers.tiny import tiny_network, tiny_towers


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def network():
    return tiny_network(tiny_towers())


@pytest.fixture(scope="module")
def content(network):
    """What a checkpoint of the network holds."""
    names = network.trainable_parameter_names()
    weights = {name: p.detach().clone() for name, p in network.named_parameters() if name in names}
    config = {"seed": 0, "backbone": {"name": "tiny", "weights": None}, "module": {"name": "afr_clip"}}
    manifest = {"config": config, "epochs": 1, "commit": {"hash": "0" * 40, "dirty": False}}
    trained_on = {"name": "demo", "root": "drawn", "categories": None, "images": ["0" * 16]}
    return {
        "format": FORMAT,
        "state_dict": weights,
        "manifest": manifest | {"backbone": {"name": "tiny", "fingerprint": "f" * 64}, "trained_on": trained_on},
    }


@pytest.fixture(scope="module")
def whole(content):
    return saved(content)


def loaded(path, network):
    """The weights that end up in the network, or the sentence of a refusal, which names the file."""

    def load():
        checkpoint = read_checkpoint(path)
        load_adapters(network, checkpoint, checkpoint.manifest["backbone"]["fingerprint"])
        names = network.trainable_parameter_names()
        return {name: p.detach().clone() for name, p in network.named_parameters() if name in names}

    weights = outcome(path.parent, load, CheckpointError)
    assert not isinstance(weights, Refused) or str(path) in weights
    return weights


@fuzzed(500)
@given(data=st.data())
def test_a_damaged_checkpoint_is_refused_or_unchanged(tmp_path, network, content, whole, data):
    path = tmp_path / "last.ckpt"
    path.write_bytes(data.draw(damaged(whole)))
    weights = loaded(path, network)
    assert isinstance(weights, Refused) or same(weights, content["state_dict"])


tensors = st.sampled_from(
    (
        torch.tensor(float("nan")), torch.zeros(0), torch.zeros(1, dtype=torch.int64), torch.zeros(2, 3),
        torch.full((4,), float("inf")), torch.zeros(3, dtype=torch.complex64), torch.eye(3).to_sparse(),
        torch.zeros(2, device="meta"), torch.zeros(1).expand(10**12),
    )
)  # fmt: skip


@fuzzed(500)
@given(data=st.data())
def test_a_checkpoint_with_other_values_is_refused_or_finite(tmp_path, network, content, data):
    changed = data.draw(damaged_tree(copy.deepcopy(content), lambda: st.one_of(odd_values, tensors)))
    path = tmp_path / "last.ckpt"
    path.write_bytes(saved(changed))
    weights = loaded(path, network)
    assert isinstance(weights, Refused) or all(weight.isfinite().all() for weight in weights.values())


class Attention(torch.nn.Module):
    """The parts of OpenAI's archives: nested modules, half precision, integers that are not weights."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = torch.nn.Linear(3, 2).half()
        self.register_buffer("input_resolution", torch.tensor(8))
        self.positional_embedding = torch.nn.Parameter(torch.randn(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture(scope="module")
def weight_files():
    """Each form of a weight file, and the weights in it."""
    module = Attention()
    state = {name: value for name, value in module.state_dict().items() if name != "input_resolution"}
    archive = io.BytesIO()
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.save(torch.jit.script(module), archive)
    files = {
        "w.safetensors": save(state),
        "w.pt": saved(state),
        "w.pth": saved({"state_dict": state}),
        "o.pt": archive.getvalue(),
    }
    return files, {name: value.float() for name, value in state.items()}


@fuzzed(500)
@given(data=st.data(), name=st.sampled_from(("w.safetensors", "w.pt", "w.pth", "o.pt")))
def test_damaged_weights_are_refused_or_unchanged(tmp_path, weight_files, data, name):
    files, state = weight_files
    path = tmp_path / name
    path.write_bytes(data.draw(damaged(files[name])))
    weights = outcome(tmp_path, lambda: read_state_dict(path), ValueError)
    if isinstance(weights, Refused):
        assert str(path) in weights
    elif name != "w.safetensors":  # which has no checksum
        assert same(weights, state)
