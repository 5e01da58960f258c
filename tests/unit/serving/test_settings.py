import pytest

from afr_clip.serving.settings import ServingSettings, is_loopback, token_from


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org"])
def test_other_machines_need_a_token_unless_the_server_is_open(host):
    with pytest.raises(ValueError, match=r"can be reached from other machines and needs a token, got none\. Set AFR"):
        ServingSettings(host=host)
    assert ServingSettings(host=host, token="x" * 16).host == host
    assert ServingSettings(host=host, is_open=True).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_this_machine_needs_none(host):
    assert is_loopback(host)
    assert ServingSettings(host=host).token is None


def test_an_empty_token_is_none():
    assert token_from({"AFR_CLIP_TOKEN": ""}) is None
    assert token_from({"AFR_CLIP_TOKEN": "secret"}) == "secret"


@pytest.mark.parametrize(
    ("faulty", "sentence"),
    [
        ({"max_bytes": 0}, r"--max-bytes must be positive, got 0\."),
        ({"port": 65536}, r"--port must be from 0 to 65535, got 65536\."),
        ({"wait": -0.1}, r"--wait must be from 0 to 10 seconds, got -0.1\."),
        ({"timeout": float("inf")}, r"--timeout must be finite, got inf\."),
        ({"token": "short"}, r"AFR_CLIP_TOKEN must have at least 16 ASCII characters, got 5\."),
    ],
)
def test_what_is_out_of_range_is_a_sentence(faulty, sentence):
    with pytest.raises(ValueError, match=sentence):
        ServingSettings(**faulty)


def test_the_folder_must_be_there(tmp_path):
    with pytest.raises(ValueError, match=r"--folder must be a directory, got .*nothing\."):
        ServingSettings(folder=tmp_path / "nothing")
