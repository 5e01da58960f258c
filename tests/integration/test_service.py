"""The first commands of the pages on serving and watching, as processes of their own."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

import afr_clip

pytestmark = pytest.mark.integration

ROOT = Path(afr_clip.__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


def first_command(page: str, name: str) -> list[str]:
    """Return the first command of a page, without ``afr-clip``."""
    text = (ROOT / "docs" / "how-to" / page).read_text(encoding="utf-8")
    return shlex.split(re.findall(rf"^afr-clip ({name} .*)$", text, re.MULTILINE)[0])


def start(*words: str, **options: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "afr_clip", *words], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, **options
    )


def test_the_server_answers_as_the_api_does_and_ends_when_it_is_asked_to(tmp_path):
    Image.new("RGB", (60, 40), (200, 120, 90)).save(tmp_path / "part.png")
    body = b'--x\r\nContent-Disposition: form-data; name="image"; filename="part.png"\r\n\r\n'
    body += (tmp_path / "part.png").read_bytes() + b"\r\n--x--\r\n"
    with (tmp_path / "log").open("w") as log:
        process = start(*first_command("serving.md", "serve"), "--port", "0", stderr=log)
        try:
            url = re.findall(r"^serving: (http\S+)/docs$", process.stdout.readline())[0]
            request = urllib.request.Request(
                f"{url}/v1/inspect", body, {"content-type": "multipart/form-data; boundary=x"}
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                found = json.loads(answer.read())
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.communicate()
    expected = afr_clip.load("pocket").inspect(tmp_path / "part.png", "metal nut").to_dict()
    assert {**found, "image_score": 0} | {"image": found["file"]} == {
        **expected, "image_score": 0, "image": "part.png",
        **{name: found[name] for name in ("id", "time", "model", "file")},
    }  # fmt: skip
    assert found["image_score"] == pytest.approx(expected["image_score"], abs=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    (answered,) = [line for line in lines if line["message"] == "answered"]
    assert (answered["request_id"], answered["status"]) == (found["id"], 200)


def test_the_folder_is_watched_until_the_command_is_asked_to_end(tmp_path):
    folder, out = tmp_path / "FOLDER", tmp_path / "outputs" / "line1"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (60, 40), (200, 40 * number, 90)).save(folder / f"{number}.png")
    words = first_command("watching.md", "watch")
    process = start(*words, "--settle", "0", "--poll", "0.1", cwd=tmp_path)
    try:
        assert process.stdout.readline() == "watching: FOLDER\n"
        while not (out / "inspections.csv").exists() or len((out / "inspections.csv").read_text().splitlines()) < 6:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=60)
        assert (process.returncode, printed) == (0, "inspected: 5\nrecords: outputs/line1\n")
    finally:
        process.kill()
        process.communicate()
    records = [json.loads(line) for line in (out / "inspections.jsonl").read_text().splitlines()]
    assert sorted(one["file"] for one in records) == [f"{number}.png" for number in range(5)]
    assert all(0 <= one["image_score"] <= 1 and one["category"] == "metal nut" for one in records)
