"""Kill afr-clip watch while files arrive and its webhook and broker are down, and count what each sink got.

python benchmarks/watching.py --photographs DIR --model RUN/model.onnx

Adds its figures to experiments/serving/results.json. Needs mosquitto.
"""

import argparse
import json
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from serving import CATEGORY, keep, small

KILLS = 5


def main() -> None:
    """Watch, kill, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, default=Path("../shared/data"), metavar="DIR")
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--number", type=int, default=3000, help="files")
    typed = parser.parse_args()
    with TemporaryDirectory() as scratch:
        keep("watch", measure(typed, Path(scratch)))


class Receiver(ThreadingHTTPServer):
    """A webhook that notes the ids it gets; it can go away and come back."""

    def __init__(self, port: int, ids: list[str]) -> None:
        self.ids = ids
        super().__init__(("127.0.0.1", port), _Receives)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def end(self) -> None:
        """Go away."""
        self.shutdown()
        self.server_close()


class _Receives(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.ids.append(body["id"])  # type: ignore[attr-defined]
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Broker:
    """A mosquitto that keeps its messages on disk, and a subscriber that it knows."""

    def __init__(self, scratch: Path) -> None:
        self.port, self.ids = free_port(), list[str]()
        self._config = scratch / "mosquitto.conf"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nuser root\n"
            f"persistence true\npersistence_location {scratch}/\n"
        )
        self.start()
        self._subscriber = Client(CallbackAPIVersion.VERSION2, client_id="counter", clean_session=False)
        self._subscriber.on_message = lambda _client, _data, message: self.ids.append(json.loads(message.payload)["id"])
        self._subscriber.on_connect = lambda client, *_: client.subscribe("line/1", qos=1)
        self._subscriber.reconnect_delay_set(1, 1)
        self._subscriber.connect("127.0.0.1", self.port)
        self._subscriber.loop_start()

    def start(self) -> None:
        """Come back."""
        found = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self._process = subprocess.Popen([found, "-c", self._config], stderr=subprocess.DEVNULL)
        time.sleep(1)

    def end(self) -> None:
        """Go away."""
        self._process.terminate()
        self._process.wait()

    def finish(self, number: int) -> None:
        """Wait until the subscriber has a number of different ids, or half a minute, and end both."""
        until = time.monotonic() + 30
        while len(set(self.ids)) < number and time.monotonic() < until:
            time.sleep(0.1)
        self._subscriber.disconnect()
        self._subscriber.loop_stop()
        self.end()


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def write_files(camera: Path, sources: Sequence[bytes], number: int) -> None:
    """Write photographs as a camera does: some a second, and one in ten in two parts with a pause."""
    draw = random.Random(1)
    for i in range(number):
        content = sources[i % len(sources)] + str(i).encode()  # behind the end of the JPEG, so that all differ
        with (camera / f"{i:05}.jpg").open("wb") as file:
            half = draw.randrange(len(content)) if i % 10 == 0 else len(content)
            file.write(content[:half])
            file.flush()
            if half < len(content):
                time.sleep(draw.uniform(0, 0.2))
                file.write(content[half:])
        time.sleep(draw.uniform(0, 0.03))


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file that may not be there yet."""
    return path.read_text().splitlines() if path.exists() else []


def measure(typed: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Start and kill the command, then let it finish, and compare the sinks."""
    camera, out, posted, draw = scratch / "camera", scratch / "out", list[str](), random.Random(2)
    camera.mkdir()
    sources = [path.read_bytes() for path in small(typed.photographs, scratch / "small", 64)]
    broker, web_port = Broker(scratch), free_port()
    receiver = Receiver(web_port, posted)
    command = [
        sys.executable, "-m", "afr_clip", "watch", camera, "--model", typed.model, "--category", CATEGORY,
        "--out", out, "--settle", "0.3", "--poll", "0.1", "--webhook", f"http://127.0.0.1:{web_port}/",
        "--mqtt", f"mqtt://127.0.0.1:{broker.port}/line/1",
    ]  # fmt: skip
    writer = threading.Thread(target=write_files, args=(camera, sources, typed.number))
    writer.start()
    started, records, killed_at = time.monotonic(), out / "inspections.jsonl", list[int]()
    for i in range(KILLS):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        goal = min(len(lines_of(records)) + typed.number // (KILLS + 2) + draw.randrange(10), typed.number)
        while len(lines_of(records)) < goal and process.poll() is None:
            time.sleep(0.02)
            if i == 2 and len(killed_at) == 2 and len(lines_of(records)) > killed_at[-1] + typed.number // 60:
                killed_at.append(-1)  # both go away in the middle of the third run
                receiver.end()
                broker.end()
        process.kill()
        process.wait()
        killed_at = [*killed_at[:i], len(lines_of(records))]
        print("killed at", killed_at[-1], flush=True)
    writer.join()
    last = subprocess.Popen([*command, "--once"], stdout=subprocess.DEVNULL)
    time.sleep(10)  # of the last run, too, without webhook and broker
    receiver = Receiver(web_port, posted)
    broker.start()
    code = last.wait(900)
    seconds = time.monotonic() - started
    broker.finish(typed.number)
    receiver.end()
    found = [json.loads(line) for line in lines_of(records)]
    rows, ids = lines_of(out / "inspections.csv")[1:], [one["id"] for one in found]
    return {
        "files": typed.number,
        "records at each kill": killed_at,
        "exit code of the last run": code,
        "seconds": round(seconds, 1),
        "photographs with an error": sum(one["error"] is not None for one in found),
        "JSON lines": {"records": len(ids), "files": len({one["file"] for one in found}), "ids": len(set(ids))},
        "CSV": {"records": len(rows), "is in the same order": [row[:32] for row in rows] == ids},
        **{
            name: {"received": len(got), "ids": len(set(got)), "has all": set(got) == set(ids)}
            for name, got in (("webhook", posted), ("MQTT", broker.ids))
        },
    }


if __name__ == "__main__":
    main()
