import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from afr_clip import watch as command
from afr_clip.cli.command import CommandLineError
from afr_clip.watching.journal import Journal, JournalError, Stat
from afr_clip.watching.sinks import Csv, JsonLines, SinkError
from afr_clip.watching.watch import WatchingSettings, watch
from helpers.detectors import bright_model

ONCE = WatchingSettings(poll=0.02, settle=0.0, give_up=0.05, is_once=True, max_pixels=1000)


@pytest.fixture
def watched(camera, tmp_path):
    """Watch once; returns the number and the lines of all records so far."""

    def run() -> tuple[int, list[dict]]:
        journal = Journal(tmp_path / "out" / "j.sqlite", camera.folder)
        sinks = [JsonLines(tmp_path / "out" / "a.jsonl"), Csv(tmp_path / "out" / "a.csv")]
        try:
            number = watch(camera.folder, bright_model("cap"), journal, sinks, ONCE, threading.Event())
        finally:
            journal.close()
        lines = (tmp_path / "out" / "a.jsonl").read_text().splitlines()
        assert len((tmp_path / "out" / "a.csv").read_text().splitlines()) == len(lines) + 1
        return number, [json.loads(line) for line in lines]

    return run


def test_each_photograph_is_recorded_once_with_all_that_is_known(watched, camera):
    for number in range(1, 7):
        camera(f"{number}.png", 10 * number, date=number)
    number, records = watched()
    assert number == 6
    assert [round(one["image_score"] * 255) for one in records] == [10, 20, 30, 40, 50, 60]
    assert [one["file"] for one in records] == [f"{n}.png" for n in range(1, 7)]
    assert {one["category"] for one in records} == {"cap"}
    assert {"id", "time", "model", "decision", "regions", "error"} <= records[0].keys()
    camera("7.png", 70)
    camera("1.png", 10, date=9)  # touched, not changed
    camera("2.png", 99, date=9)  # another photograph under the same name
    number, records = watched()
    assert (number, [one["file"] for one in records[6:]]) == (2, ["7.png", "2.png"])
    assert len({one["id"] for one in records}) == 8


def test_a_photograph_that_fails_is_recorded_too_and_spoils_no_other(watched, camera):
    camera("black.png", 0, date=1)
    (camera.folder / "damaged.png").write_bytes(b"abc")
    camera("good.png", 50, date=3)
    records = {one["file"]: one for one in watched()[1]}
    assert records["black.png"]["error"] == "black.png is black."
    assert "is not a valid image file" in records["damaged.png"]["error"]
    assert records["good.png"]["error"] is None
    assert [one.keys() for one in records.values()] == [records["good.png"].keys()] * 3
    assert watched()[0] == 0


class Faulty(JsonLines):
    def deliver(self, records, state):
        raise ZeroDivisionError


def test_a_fault_of_a_sink_ends_the_command_instead_of_holding_it_up(camera, tmp_path):
    camera("a.png")
    journal = Journal(tmp_path / "j.sqlite", camera.folder)
    with pytest.raises(ZeroDivisionError):
        watch(camera.folder, bright_model("cap"), journal, [Faulty(tmp_path / "a")], ONCE, threading.Event())
    assert list(journal.num_pending().values()) == [1]
    journal.close()


class Down(JsonLines):
    def deliver(self, records, state):
        raise SinkError("It is down.")


def test_all_sinks_share_one_grace(camera, tmp_path, caplog):
    camera("a.png")
    stopped = threading.Event()
    journal = Journal(tmp_path / "j.sqlite", camera.folder)
    sinks = [Down(tmp_path / str(number)) for number in range(10)]
    settings = replace(ONCE, is_once=False, grace=0.5)
    thread = threading.Thread(
        target=watch, args=(camera.folder, bright_model("cap"), journal, sinks, settings, stopped)
    )
    thread.start()
    until = time.monotonic() + 20
    while not sum(journal.num_pending().values()) and time.monotonic() < until:
        time.sleep(0.01)
    started = time.monotonic()
    stopped.set()
    thread.join(20)
    assert 0.4 < time.monotonic() - started < 4  # one after the other would take 5 s
    assert sum("still has 1 record to receive; the next start delivers them." in one for one in caplog.messages) == 10
    journal.close()


class FaultyAtTheEnd(JsonLines):
    """Waits until the command is asked to stop, and then fails in a way that no attempt mends."""

    def __init__(self, path: Path, stopped: threading.Event) -> None:
        super().__init__(path)
        self._stopped = stopped

    def deliver(self, records, state):
        self._stopped.set()
        time.sleep(0.2)
        raise ZeroDivisionError


def test_a_fault_while_the_command_stops_is_raised_too(camera, tmp_path):
    camera("a.png")
    stopped, journal = threading.Event(), Journal(tmp_path / "j.sqlite", camera.folder)
    settings = replace(ONCE, is_once=False, poll=10.0)  # the main loop sleeps until it is stopped
    with pytest.raises(ZeroDivisionError):
        watch(camera.folder, bright_model("cap"), journal, [FaultyAtTheEnd(tmp_path / "a", stopped)], settings, stopped)
    journal.close()


PROGRAM = """
import sys, threading
from pathlib import Path
from helpers.detectors import bright_model
from afr_clip.watching.journal import Journal
from afr_clip.watching.sinks import Csv, JsonLines
from afr_clip.watching.watch import WatchingSettings, watch
folder, out = map(Path, sys.argv[1:])
journal = Journal(out / "j.sqlite", folder)
print("ready", flush=True)
settings = WatchingSettings(poll=0.01, settle=0.0, give_up=1.0, is_once=True)
sinks = [JsonLines(out / "a.jsonl"), Csv(out / "a.csv")]
watch(folder, bright_model("cap"), journal, sinks, settings, threading.Event())
"""


@pytest.mark.integration
def test_every_photograph_is_in_every_file_exactly_once_whenever_the_process_is_killed(camera, tmp_path):
    out = tmp_path / "out"
    expected = {camera(f"{number:03}.png", 1 + number % 250, date=number + 1).name for number in range(300)}
    tests, source = Path(__file__).parents[2], Path(command.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{tests}"}

    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, camera.folder, out], env=environment, stdout=subprocess.PIPE, text=True
        )

    def lines() -> int:
        path = out / "a.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    for stage in (20, 90, 200):
        process = start()
        assert process.stdout.readline() == "ready\n"
        until = time.monotonic() + 30
        while lines() < stage and process.poll() is None and time.monotonic() < until:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start()
    process.communicate(timeout=60)
    assert process.returncode == 0
    records = [json.loads(line) for line in (out / "a.jsonl").read_text().splitlines()]
    rows = (out / "a.csv").read_text().splitlines()[1:]
    assert len(records) == len(rows) == 300
    assert {one["file"] for one in records} == expected
    assert [row.split(",")[0] for row in rows] == [one["id"] for one in records]


def test_addresses_of_another_form_are_refused(tmp_path):
    for webhook in ("ftp://host/x", "http://", "host/x", "http://host:80x/", "http://[::1/", "http://:80/"):
        with pytest.raises(CommandLineError, match=r"--webhook must be an address of http or https, got"):
            command.sinks_of(tmp_path, webhook, None, {})
    for webhook in ("http://höst/x", "http://host/ä", "http://host/a b", "http://host/\n"):
        with pytest.raises(CommandLineError, match=r"--webhook must be of ASCII characters without blanks\."):
            command.sinks_of(tmp_path, webhook, None, {})
    for mqtt in (
        "mqtt://host",
        "mqtt://host/",
        "host/topic",
        "mqtt://host/a/#",
        "mqtt://host/%23",
        "mqtt://host/\udcff",
        "mqtt://u@host/a",
    ):
        with pytest.raises(CommandLineError, match=r"--mqtt must be mqtt://HOST"):
            command.sinks_of(tmp_path, None, mqtt, {})
    for place, sentence in (
        ("host:0", r"The port of --(webhook|mqtt) must be from 1 to 65535, got 0\."),
        ("host:65536", r"The port of --(webhook|mqtt) must be .* got 65536\."),
        (f"{'a' * 64}.example", r"--(webhook|mqtt) must name a host, got aaa"),
        ("host..example", r"--(webhook|mqtt) must name a host, got host\.\.example\."),
        ("[1:2]", r"--(webhook|mqtt) must name a host, got \[1:2\]\."),
    ):
        for webhook, mqtt in ((f"http://{place}/x", None), (None, f"mqtt://{place}/x")):
            with pytest.raises(CommandLineError, match=sentence):
                command.sinks_of(tmp_path, webhook, mqtt, {})
    sinks = command.sinks_of(tmp_path, "https://host/x", "mqtts://[::1]:8883/a/b", {})
    assert [one.name.split(":")[0] for one in sinks] == ["file", "file", "webhook", "mqtt"]


def test_what_is_secret_of_a_webhook_is_in_no_sentence_and_in_no_name(tmp_path):
    for webhook in ("https://user:secret@host/x", "ftp://secret@host", "HTTPS://secret@host:1x/?a", "secret@host/x"):
        with pytest.raises(CommandLineError, match=r"^--webhook must have no user and password((?!secret@).)*$"):
            command.sinks_of(tmp_path, webhook, None, {})
    one, other = (command.sinks_of(tmp_path, f"https://h:8443/a@b?token={n}", None, {})[-1].name for n in (1, 2))
    assert one.startswith("webhook:https://h:8443#")
    assert len(one) == len("webhook:https://h:8443#") + 8
    assert one != other


@pytest.mark.parametrize(
    ("faulty", "sentence"),
    [
        ({"poll": 0.0}, r"--poll must be positive, got 0\.0"),
        ({"settle": -1.0}, r"--settle must"),
        ({"settle": 5.0, "give_up": 4.0}, r"--give-up must be at least --settle, got 4\.0 and 5\.0\."),
    ],
)
def test_what_is_out_of_range_is_a_sentence(faulty, sentence):
    with pytest.raises(ValueError, match=sentence):
        WatchingSettings(**faulty)


@pytest.fixture
def typed(camera, tmp_path, monkeypatch):
    """The words of a command that does its work once, with a model that needs no loading."""
    monkeypatch.setattr(command, "load_model", lambda *_: bright_model("cap"))
    monkeypatch.setattr(command.logging, "basicConfig", lambda **_: None)
    return [str(camera.folder), "--out", str(tmp_path / "out"), "--once", "--settle", "0", "--poll", "0.02"]


def test_a_sink_is_left_out_only_if_that_is_written(typed, camera, tmp_path, capsys):
    gone = "webhook:http://127.0.0.1:9#1234abcd"
    journal = Journal(tmp_path / "out" / command.JOURNAL, camera.folder)
    journal.join(gone, {})
    journal.record([(b"x", Stat(1, 1), {"id": "0" * 32})])
    journal.close()
    with pytest.raises(JournalError, match=rf"^{gone} still has 1 record to receive"):
        command.main(typed)
    command.main([*typed, "--drop-sink", gone])
    assert capsys.readouterr().out.count("inspected: 0\n") == 1


def test_what_is_no_folder_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(
        CommandLineError, match=r"FOLDER must be a directory, got .*nothing\. Name the one that the camer"
    ):
        command.main([str(tmp_path / "nothing"), "--out", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []
