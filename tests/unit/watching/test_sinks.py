import csv
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from afr_clip.watching import sinks
from afr_clip.watching.delivery import Delivery
from afr_clip.watching.journal import Journal, Stat
from afr_clip.watching.sinks import Csv, JsonLines, Mqtt, SinkError, Webhook, signature


def record(number: int, **more: object) -> str:
    facts = {"id": f"{number:032x}", "file": f"{number}.png", "image_score": 0.5, "decision": None, "regions": []}
    rest = dict.fromkeys(("time", "model", "category", "threshold", "calibrated", "error"))
    return json.dumps({**rest, **facts, **more})


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_file_that_was_written_in_part_is_completed_and_nothing_comes_twice(tmp_path):
    sink = JsonLines(tmp_path / "a.jsonl")
    state = sink.deliver([record(1)], sink.start())
    next_ones = [record(2), record(3)]
    whole = "".join(f"{one}\n" for one in [record(1), *next_ones])
    for cut in range(len(record(1)) + 1, len(whole) + 1):  # killed at any byte before the journal knew
        (tmp_path / "a.jsonl").write_text(whole[:cut])
        assert sink.deliver(next_ones, state)["length"] == len(whole)
        assert (tmp_path / "a.jsonl").read_text() == whole


def test_a_file_that_somebody_else_wrote_into_is_left_alone(tmp_path):
    sink = JsonLines(tmp_path / "a.jsonl")
    state = sink.start()
    (tmp_path / "a.jsonl").write_text("mine\n")
    with pytest.raises(SinkError, match=r"was changed by something else\. Move it away"):
        sink.deliver([record(1)], state)
    assert (tmp_path / "a.jsonl").read_text() == "mine\n"
    assert sink.deliver([record(1)], sink.start())["length"] == len(f"mine\n{record(1)}\n")


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    sink = JsonLines(tmp_path / "deep" / "a.jsonl")
    state = sink.start()
    shutil.rmtree(tmp_path / "deep")
    with pytest.raises(SinkError, match=r"deep/a\.jsonl cannot be written: No such file or directory\."):
        sink.deliver([record(1)], state)


def test_a_file_that_was_moved_away_or_emptied_is_begun_again(tmp_path):
    sink, path = Csv(tmp_path / "a.csv"), tmp_path / "a.csv"
    state = sink.deliver([record(1)], sink.start())
    path.rename(tmp_path / "old.csv")
    state = sink.deliver([record(2)], state)
    os.truncate(path, 0)
    sink.deliver([record(3)], state)
    assert [row["file"] for row in rows(path)] == ["3.png"]
    assert [row["file"] for row in rows(tmp_path / "old.csv")] == ["1.png"]


def test_a_row_has_the_number_and_area_of_regions_and_no_formula(tmp_path):
    sink = Csv(tmp_path / "a.csv")
    sink.deliver([record(1, file="=1+1", regions=[{"area_px": 3}, {"area_px": 4}], decision="normal")], sink.start())
    (row,) = rows(tmp_path / "a.csv")
    assert (row["file"], row["regions"], row["area_px"], row["decision"]) == ("'=1+1", "2", "7", "normal")


class Receiver(ThreadingHTTPServer):
    """Notes what is posted; answers with the statuses that are given, then with 204."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((dict(self.headers), body))
        status = self.server.statuses.pop(0) if self.server.statuses else 204
        self.send_response(status)
        if status == 302:
            self.send_header("location", self.server.url)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def receiver():
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_webhook_gets_the_record_its_id_and_a_signature(receiver):
    Webhook(receiver.url, "secret").deliver([record(1)], {})
    ((headers, body),) = receiver.got
    assert body.decode() == record(1)
    assert headers["Idempotency-Key"] == json.loads(body)["id"]
    assert headers["X-Signature"] == signature("secret", headers["X-Timestamp"], body)
    assert abs(int(headers["X-Timestamp"]) - time.time()) < 60
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("status", [302, 400, 404, 429, 500, 503])
def test_any_other_answer_is_a_failure_and_no_redirection_is_followed(receiver, status):
    receiver.statuses = [status]
    with pytest.raises(SinkError, match=f"The webhook answered {status} "):
        Webhook(receiver.url, None).deliver([record(1)], {})
    assert len(receiver.got) == 1


def test_a_webhook_that_is_down_or_talks_nonsense_is_a_failure():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(10_000)
                client.sendall(b"nonsense\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(SinkError, match="The webhook cannot be reached"):
            Webhook(f"http://127.0.0.1:{port}/", None).deliver([record(1)], {})
        thread.join()
    with pytest.raises(SinkError, match=r"The webhook cannot be reached: .*refused"):
        Webhook(f"http://127.0.0.1:{port}/", None).deliver([record(1)], {})


def test_a_delivery_goes_on_until_the_sink_takes_it(receiver, tmp_path):
    journal = Journal(tmp_path / "j.sqlite", tmp_path)
    receiver.statuses = [500, 503, 404]
    delivery = Delivery(journal, Webhook(receiver.url, None), first_pause=0.01)
    delivery.start()
    journal.record([(b"%d" % n, Stat(1, 1), json.loads(record(n))) for n in range(3)])
    until = time.monotonic() + 20
    while any(journal.num_pending().values()) and time.monotonic() < until:
        time.sleep(0.01)
    delivery.ask_to_stop(time.monotonic() + 5)
    delivery.join()
    journal.close()
    assert [json.loads(body)["file"] for _, body in receiver.got] == ["0.png"] * 4 + ["1.png", "2.png"]


MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


class Broker:
    """A mosquitto on a free port of this machine."""

    def __init__(self, folder) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen([MOSQUITTO, "-c", self._config], stderr=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def broker(tmp_path):
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    broker = Broker(tmp_path)
    broker.start()
    yield broker
    broker.stop()


def subscribed(port: int, got: list[str]):
    ready = threading.Event()
    paho = pytest.importorskip("paho.mqtt.client")
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: got.append(message.payload.decode())
    client.on_subscribe = lambda *_: ready.set()
    client.connect("127.0.0.1", port)
    client.subscribe("line/1", qos=1)
    client.loop_start()
    assert ready.wait(20)
    return client


def test_a_broker_gets_every_record_also_after_it_was_down(broker, monkeypatch):
    got: list[str] = []
    sink = Mqtt(f"mqtt://127.0.0.1:{broker.port}/line/1", None)
    listener = subscribed(broker.port, got)
    sink.deliver([record(n) for n in range(50)], {})
    until = time.monotonic() + 20
    while len(got) < 50 and time.monotonic() < until:
        time.sleep(0.01)
    listener.disconnect()
    listener.loop_stop()
    assert got == [record(n) for n in range(50)]
    broker.stop()
    with monkeypatch.context() as patch:
        patch.setattr(sinks, "ANSWER_SECONDS", 0.5)
        with pytest.raises(SinkError, match=rf"The broker at 127.0.0.1:{broker.port} "):
            sink.deliver([record(50)], {})
    broker.start()
    listener = subscribed(broker.port, got)
    sink.deliver([record(50)], {})
    until = time.monotonic() + 20
    while len(got) < 51 and time.monotonic() < until:
        time.sleep(0.01)
    listener.disconnect()
    listener.loop_stop()
    sink.close()
    assert got[-1] == record(50)
