import json

import pytest

from afr_clip import validate as command
from afr_clip.cli.command import CommandLineError
from afr_clip.config.validate import ConfigError
from afr_clip.run import validation
from afr_clip.run.validation import CHECKS, FaultError


@pytest.fixture
def quick(monkeypatch):
    """Two checks: one that counts, and one that can be told to fail."""
    monkeypatch.setattr(validation, "CHECKS", {name: CHECKS[name] for name in ("frozen taps", "cost")})


def test_the_outcomes_are_a_table_or_data(quick, capsys):
    command.main(["april_gan"])
    assert "april_gan: 2 of 2 checks passed" in " ".join(capsys.readouterr().out.split())
    command.main(["winclip", "module.network.window_sizes=[2]", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["method"], [one["state"] for one in found["outcomes"]]) == ("winclip", ["not checked", "passed"])
    assert found["outcomes"][1]["detail"].startswith("0 trained parameters")


def test_a_backbone_may_be_chosen(quick, capsys):
    command.main(["uni_adet", "backbone=tiny", "backbone.image_size=32"])
    assert "on tiny" in capsys.readouterr().out


def test_a_failed_check_ends_with_one(monkeypatch, capsys):
    def fails(_):
        raise FaultError("it is [wrong]")

    monkeypatch.setattr(validation, "CHECKS", {"always": fails})
    with pytest.raises(SystemExit) as end:
        command.main(["clip_similarity"])
    assert end.value.code == 1
    assert "it is [wrong]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "error", "fault"),
    [
        (["aprilgan"], CommandLineError, "METHOD must be one of .*, got aprilgan. Did you mean april_gan"),
        (["april_gan", "foo=1"], CommandLineError, "foo is not a key"),
        (["april_gan", "module.network.scoring.temperature=-1"], ConfigError, "temperature must be positive"),
        (["april_gan", "backbone=dinov3_l_16"], ValueError, "this backbone has no text tower"),
    ],
)
def test_what_cannot_be_checked_is_one_sentence(words, error, fault):
    with pytest.raises(error, match=fault):
        command.main(words)
