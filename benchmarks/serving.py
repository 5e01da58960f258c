"""Measure afr-clip serve on this machine: load, memory, hostile requests, stops.

python benchmarks/serving.py load --photographs DIR
python benchmarks/serving.py load --photographs DIR --model RUN/model.onnx
python benchmarks/serving.py memory --photographs DIR

Each part adds its figures to experiments/serving/results.json. `load` needs wrk.
"""

import argparse
import base64
import ctypes
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

RESULTS = Path(__file__).parents[1] / "experiments" / "serving" / "results.json"
CATEGORY = "metal nut"
BOUNDARY = "photograph"
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}

WRK = """
local bodies, next_one = {}, 0
function init(args)
  for i, name in ipairs(args) do
    local file = io.open(name, "rb")
    bodies[i] = file:read("*a")
    file:close()
  end
  next_one = math.random(#bodies)
end
function request()
  next_one = next_one % #bodies + 1
  local kind = {["Content-Type"] = "multipart/form-data; boundary=photograph"}
  return wrk.format("POST", "/v1/inspect", kind, bodies[next_one])
end
function done(summary, latency, requests)
  io.write(string.format('FIGURES {"requests": %d, "seconds": %f, "p50": %f, "p95": %f, "p99": %f, "failed": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(95) / 1e3,
    latency:percentile(99) / 1e3,
    summary.errors.status + summary.errors.timeout + summary.errors.read + summary.errors.connect))
end
"""

PLAIN = """
import sys, time
import afr_clip
model, category, together, *paths = sys.argv[1:]
detector = afr_clip.load(model, category=category)
def forever():
    while True:
        yield from paths
def singly():
    for path in forever():
        yield detector.inspect(path, category)
found = detector.inspect(forever(), category) if together == "batches" else singly()
for _ in range(8):
    next(found)
for line in sys.stdin:
    number, started, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < float(line):
        for _ in range(4):
            next(found)
        number += 4
    print(number, time.perf_counter() - started, time.process_time() - cpu, flush=True)
"""

ROUNDS = 3


def main() -> None:
    """Measure one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("load", "memory", "hostile", "stop"))
    parser.add_argument("--photographs", type=Path, default=Path("../shared/data"), metavar="DIR")
    parser.add_argument("--model", default="pocket", help="what is served: pocket, or an exported file")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn of load")
    parser.add_argument("--number", type=int, help="requests of memory and hostile")
    typed = parser.parse_args()
    parts: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
        "load": load, "memory": memory, "hostile": hostile, "stop": stop
    }  # fmt: skip
    with TemporaryDirectory() as scratch:
        figures = parts[typed.part](typed, Path(scratch))
    keep(typed.part if typed.model == "pocket" else f"{typed.part} of an exported model", figures)


def keep(name: str, figures: dict[str, Any]) -> None:
    """Add figures to the record, and print them."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({**known, name: figures}, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


def pictures(folder: Path, most: int) -> list[Path]:
    """Return photographs, not masks, from all over a folder."""
    found = sorted(
        path for path in folder.rglob("*.png") if "ground_truth" not in path.parts and "mask" not in path.stem
    )
    return found[:: max(1, len(found) // most)][:most]


def small(folder: Path, scratch: Path, most: int, side: int = 256) -> list[Path]:
    """Write photographs as JPEGs of a small size, so that the model and not the decoder takes the time."""
    scratch.mkdir(parents=True, exist_ok=True)
    written = []
    for number, path in enumerate(pictures(folder, most)):
        with Image.open(path) as image:
            image.convert("RGB").resize((side, side)).save(scratch / f"{number:04}.jpg", quality=90)
        written.append(scratch / f"{number:04}.jpg")
    return written


def form(content: bytes, name: str = "a.jpg") -> bytes:
    """Return the body of a request."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


class Served:
    """A server of its own."""

    def __init__(self, log: Path, *options: str) -> None:
        self.log = log
        command = [sys.executable, "-m", "afr_clip", "serve", *options, "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log.open("w"), text=True)
        line = self.process.stdout.readline() if self.process.stdout else ""
        found = re.search(r":(\d+)/docs", line)
        assert found, log.read_text()
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def ask(self, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
        """Send one request; return status and answer."""
        request = urllib.request.Request(f"{self.url}/v1/inspect", body, headers or FORM)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def metric(self, name: str) -> float:
        """Return a number that the server counts."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            found = re.search(rf"^{name}\S* (\S+)", answer.read().decode(), re.MULTILINE)
        return float(found[1]) if found else float("nan")

    def resident(self) -> float:
        """Return the memory that the server has, in MiB."""
        return self.metric("process_resident_memory_bytes") / 2**20

    def end(self) -> int:
        """Ask the server to stop; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(90)


@contextmanager
def served(log: Path, *options: str) -> Iterator[Served]:
    """Serve inside the block."""
    server = Served(log, *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end()


def load(typed: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Requests a second and latencies at several numbers of clients, next to the plain API.

    Server and plain API take turns within one run, because other work on the machine slows both; the CPU time of a
    photograph is less sensitive to it.
    """
    figures: dict[str, Any] = {"model": Path(typed.model).name, "photographs": {}}
    script = scratch / "load.lua"
    script.write_text(WRK)
    for kind, paths in (
        ("256 x 256 JPEG", small(typed.photographs, scratch / "small", 64)),
        ("as they are", pictures(typed.photographs, 32)),
    ):
        bodies = [scratch / f"{kind[:3]}{number}.body" for number in range(len(paths))]
        for body, path in zip(bodies, paths, strict=True):
            body.write_bytes(form(path.read_bytes()))
        rows = []
        with (
            served(scratch / "log", typed.model, "--category", CATEGORY) as server,
            Plain(typed.model, "batches", paths) as batches,
            Plain(typed.model, "singly", paths) as singly,
        ):
            plain = {"plain, in batches": batches, "plain, one by one": singly}
            for clients in (1, 4, 16, 64):
                rows.append(compare(server, clients, [script, server.url, "--", *bodies], plain, typed.seconds))
                print(kind, rows[-1], flush=True)
        figures["photographs"][kind] = rows
    return figures


class Plain:
    """A process that inspects photographs with the plain API, when it is asked to."""

    def __init__(self, model: str, together: str, paths: Sequence[Path]) -> None:
        command = [sys.executable, "-c", PLAIN, model, CATEGORY, together, *map(str, paths)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Plain":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, seconds: float) -> tuple[float, float]:
        """Inspect for some seconds; return photographs a second, and CPU seconds of each."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        number, took, cpu = map(float, self._process.stdout.readline().split())
        return number / took, cpu / number


def compare(
    server: Served, clients: int, arguments: Sequence[Any], plain: dict[str, Plain], seconds: float
) -> dict[str, Any]:
    """Let server and plain API take turns; return medians."""
    command = [
        "wrk",
        f"-t{min(clients, 2)}",
        f"-c{clients}",
        f"-d{int(seconds)}s",
        "--timeout",
        "60s",
        "-s",
        *arguments,
    ]
    found: list[dict[str, float]] = []
    others: dict[str, list[tuple[float, float]]] = {name: [] for name in plain}
    for number in range(ROUNDS + 1):
        for name, process in plain.items():
            others[name].append(process.run(seconds))
        before = [server.metric(name) for name in COUNTED]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        after = [server.metric(name) for name in COUNTED]
        cpu, photographs, batches = (new - old for new, old in zip(after, before, strict=True))
        one = json.loads(done.stdout.partition("FIGURES ")[2])
        one |= {"rate": one["requests"] / one["seconds"], "cpu": cpu / photographs, "batch": photographs / batches}
        if number:  # the first round warms up
            found.append(one)
    middle = {name: statistics.median(one[name] for one in found) for name in found[0]}
    row = {"clients": clients, "requests_per_second": round(middle["rate"], 1)}
    row |= {f"{name}_ms": round(middle[name], 1) for name in ("p50", "p95", "p99")}
    row |= {"failed": sum(one["failed"] for one in found), "mean_batch": round(middle["batch"], 2)}
    row |= {"cpu_ms_each": round(1000 * middle["cpu"], 1)}
    for name, runs in others.items():
        ratios = [one["rate"] / rate for one, (rate, _) in zip(found, runs[1:], strict=True)]
        own = 1000 * statistics.median(cpu for _, cpu in runs[1:])
        row[name] = {
            "per_second": round(statistics.median(rate for rate, _ in runs[1:]), 1),
            "cpu_ms_each": round(own, 1),
            "served_is_times": [round(value, 2) for value in (min(ratios), statistics.median(ratios), max(ratios))],
        }
    return row


COUNTED = ("process_cpu_seconds_total", "afr_clip_batch_size_sum", "afr_clip_batch_size_count")


def memory(typed: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Resident memory over many requests of photographs of different sizes, maps and categories."""
    number, bodies = typed.number or 20_000, []
    for side in (96, 160, 256, 400):
        bodies += [form(path.read_bytes()) for path in small(typed.photographs, scratch / str(side), 16, side)]
    with served(scratch / "log", typed.model) as server:
        sizes = [{"requests": 0, "MiB": round(server.resident(), 1)}]
        left, counted = iter(range(number)), Counter[int]()
        lock = threading.Lock()

        def client() -> None:
            connection = HTTPConnection("127.0.0.1", server.port, timeout=120)
            for i in left:
                connection.request("POST", "/v1/inspect", bodies[i % len(bodies)], FORM)
                answer = connection.getresponse()
                answer.read()
                with lock:
                    counted[answer.status] += 1
                    total = counted.total()
                if total % 1000 == 0:
                    sizes.append({"requests": total, "MiB": round(server.resident(), 1)})
                    print(sizes[-1], flush=True)
            connection.close()

        in_threads(client, 16)
    late = [one["MiB"] for one in sizes if one["requests"] >= number // 10]
    growth = {"from": late[0], "to": late[-1], "highest": max(late), "lowest": min(late)}
    return {"answers": dict(counted), "resident": sizes, "MiB after the first tenth": growth}


def in_threads(work: Callable[[], None], number: int) -> None:
    """Do the same in several threads, and wait for all."""
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Opened:
    """Notes every file that is opened in a folder, by any process, through inotify."""

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK)
        opened = 0x20
        assert libc.inotify_add_watch(self._descriptor, os.fsencode(folder), opened) >= 0

    def names(self) -> list[str]:
        """Return the names of the files that were opened so far."""
        names = []
        while select.select([self._descriptor], [], [], 0)[0]:
            content = os.read(self._descriptor, 65536)
            while content:
                length = struct.unpack_from("iIII", content)[3]
                names.append(content[16 : 16 + length].rstrip(b"\0").decode())
                content = content[16 + length :]
        return names


def hostile(typed: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Requests that mean harm: none may end the server, be answered with 500, or read outside its folder."""
    number, draw = typed.number or 2000, random.Random(0)
    inside, outside = scratch / "inside", scratch / "outside"
    (inside / "deep").mkdir(parents=True)
    outside.mkdir()
    (photograph,) = small(typed.photographs, scratch / "one", 1)
    for folder in (inside, inside / "deep", outside):
        shutil.copy(photograph, folder / "a.jpg")
    (inside / "link.jpg").symlink_to(outside / "a.jpg")
    (inside / "out").symlink_to(outside)
    os.mkfifo(inside / "pipe.jpg")
    opened = Opened(outside)
    good = photograph.read_bytes()
    options = ("--folder", str(inside), "--body-timeout", "1", "--max-bytes", "1000000", "--max-pixels", "4000000")
    with served(scratch / "log", typed.model, *options) as server:
        before, start = server.ask(form(good)), server.resident()
        answers: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
        left = iter([list(KINDS)[i % len(KINDS)] for i in range(number)])
        lock = threading.Lock()

        def client() -> None:
            while True:
                with lock:
                    kind = next(left, None)
                    seed = draw.random()
                if kind is None:
                    return
                answer = KINDS[kind](server, good, outside, random.Random(seed))
                with lock:
                    answers[kind][str(answer)] += 1

        in_threads(client, 8)
        is_alive, after = server.process.poll() is None, server.ask(form(good))
        highest = server.resident()
        code = server.end()
    logged = [json.loads(line) for line in (scratch / "log").read_text().splitlines() if line.startswith("{")]
    failed = [line for line in logged if line.get("status") == 500 or "traceback" in line]
    return {
        "requests": sum(counts.total() for counts in answers.values()),
        "alive": is_alive,
        "same score after": before[1]["image_score"] == after[1]["image_score"],
        "exit code of the stop": code,
        "answered 500 or with a traceback in the log": len(failed),
        "files opened outside": len(opened.names()),
        "MiB before and after": [round(start, 1), round(highest, 1)],
        "answers": {kind: dict(sorted(counts.items())) for kind, counts in answers.items()},
    }


def raw(server: Served, content: bytes, wait: float = 0.0) -> str:
    """Send bytes as they are, in two halves; return the status, or what became of the connection."""
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(content[: len(content) // 2])
            time.sleep(wait)
            client.sendall(content[len(content) // 2 :])
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(100)
    except OSError:
        return "hung up"
    found = re.match(rb"HTTP/1.1 (\d+)", answer)
    return found[1].decode() if found else "hung up"


@cache
def packed_zeros(number: int) -> bytes:
    """Return the compressed data of a bomb."""
    return zlib.compress(bytes(number), 9)


def bomb(server: Served, good: bytes, outside: Path, draw: random.Random) -> int:
    """Send a PNG whose header or data claim far more pixels than the file has bytes."""
    side = draw.choice((1000, 3000, 30_000, 2**31 - 1))
    header = struct.pack(">IIBBBBB", side, side, 8, draw.choice((0, 2, 6)), 0, 0, 0)
    data = packed_zeros(draw.choice((100, 50_000_000)))
    parts = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    ]
    return server.ask(form(b"\x89PNG\r\n\x1a\n" + b"".join(chunks), "bomb.png"))[0]


def damaged(server: Served, good: bytes, outside: Path, draw: random.Random) -> int:
    """Send a photograph with some bytes changed, or cut off."""
    content = bytearray(good[: draw.randrange(1, len(good))] if draw.random() < 0.5 else good)
    for _ in range(draw.randrange(1, 20)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return server.ask(form(bytes(content)))[0]


def traversal(server: Served, good: bytes, outside: Path, draw: random.Random) -> int:
    """Ask for a file outside the folder."""
    paths = (
        "../outside/a.jpg", "deep/../../outside/a.jpg", str(outside / "a.jpg"), "link.jpg", "out/a.jpg", "pipe.jpg",
        "..%2foutside/a.jpg", "....//outside/a.jpg", "deep", "/etc/passwd", "/proc/self/environ", "a\0.jpg", "",
        "./../outside/./a.jpg", "deep/" + "../" * 40 + "etc/passwd", "x" * 100_000, "//etc/passwd", "\\..\\a.jpg",
    )  # fmt: skip
    body = json.dumps({"path": draw.choice(paths)}).encode()
    status = server.ask(body, {"Content-Type": "application/json"})[0]
    assert status != 200, body
    return status


def wrong_types(server: Served, good: bytes, outside: Path, draw: random.Random) -> int:
    """Send JSON of the wrong types, and other things than JSON."""
    values: tuple[Any, ...] = (None, 1, 1.5, True, [], {}, "x", ["a"] * 1000, {"a": {"b": {}}}, "\ud800", "9" * 5000)
    key = draw.choice(("image", "path", "model", "category", "map", "url", "__class__"))
    body = json.dumps({"image": base64.b64encode(good).decode(), key: draw.choice(values)}).encode()
    body = draw.choice((body, b"[" * 50_000, b"\xff\xfe", b"", b"null", b'{"image": NaN}', b'"' + b"a" * 1000 + b'"'))
    kind = draw.choice(("application/json", "application/json", "text/plain", "multipart/form-data", "application/xml"))
    return server.ask(body, {"Content-Type": kind})[0]


def odd_forms(server: Served, good: bytes, outside: Path, draw: random.Random) -> int:
    """Send forms with odd parts."""
    body = form(good, draw.choice(("../../a.jpg", "a" * 10_000, "\x01\x02", "a.jpg\r\nX: y", '"; filename="b')))
    body = draw.choice(
        (body, body[:-20], body[20:], body * 3, body.replace(b"image", b"other"), body.replace(b"\r\n", b"\n"))
    )
    kind = draw.choice((FORM["Content-Type"], "multipart/form-data; boundary=", "multipart/form-data; boundary=x" * 50))
    return server.ask(body, {"Content-Type": kind})[0]


def too_large(server: Served, good: bytes, outside: Path, draw: random.Random) -> str:
    """Send a body that is too large, with its length, without it, or with a lie."""
    body = bytes(3_000_000)
    head = b"POST /v1/inspect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    chunked = b"".join(b"%x\r\n%s\r\n" % (100_000, body[:100_000]) for _ in range(30)) + b"0\r\n\r\n"
    return raw(
        server,
        head
        + draw.choice(
            (
                b"Content-Length: 3000000\r\n\r\n" + body,
                b"Content-Length: 99999999999999\r\n\r\n" + body,
                b"Transfer-Encoding: chunked\r\n\r\n" + chunked,
                b"Transfer-Encoding: chunked\r\nContent-Length: 10\r\n\r\n" + chunked,
            )
        ),
    )


def lies(server: Served, good: bytes, outside: Path, draw: random.Random) -> str:
    """Send headers that lie or are none."""
    head, body = b"POST /v1/inspect HTTP/1.1\r\nHost: 127.0.0.1\r\n", form(good)
    kind = f"Content-Type: {FORM['Content-Type']}\r\n".encode()
    return raw(
        server,
        draw.choice(
            (
                head + kind + b"Content-Length: 10\r\n\r\n" + body,
                head + kind + b"Content-Length: -1\r\n\r\n" + body,
                head + kind + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + body,
                head + kind + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + body,
                head + kind + b"Transfer-Encoding: gzip\r\n\r\n" + body,
                head + kind + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body,
                head + b"X: " + b"a" * 500_000 + b"\r\n\r\n",
                head + b"X: y\r\n" * 20_000 + b"\r\n",
                b"POST /v1/inspect HTTP/1.1\r\n\r\n",
                b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
                b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
                b"GET /docs/files/../../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
                b"GET /docs/files/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                bytes(draw.randrange(256) for _ in range(2000)),
            )
        ),
    )


def slow(server: Served, good: bytes, outside: Path, draw: random.Random) -> str:
    """Send a body that stops half-way for longer than the server waits, or that never comes."""
    body = form(good)
    head = f"POST /v1/inspect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {FORM['Content-Type']}\r\n"
    content = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
    if draw.random() < 0.5:
        return raw(server, content[:-100], 1.5)
    with suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(content[: draw.randrange(10, len(content) - 1)])
    return "left"


KINDS: dict[str, Callable[[Served, bytes, Path, random.Random], Any]] = {
    "bombs": bomb,
    "damaged photographs": damaged,
    "paths outside": traversal,
    "wrong types": wrong_types,
    "odd forms": odd_forms,
    "bodies too large": too_large,
    "lies in headers": lies,
    "slow or abandoned bodies": slow,
}


class Crowd:
    """Clients that send one photograph after the other until they are told to go."""

    def __init__(self, server: Served, bodies: Sequence[bytes], number: int) -> None:
        self.answered: set[str] = set()
        self._server, self._bodies, self._ended = server, bodies, threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(number)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        draw = random.Random()
        connection = HTTPConnection("127.0.0.1", self._server.port, timeout=60)
        while not self._ended.is_set():
            key = f"{draw.getrandbits(64):016x}"
            try:
                connection.request("POST", "/v1/inspect", draw.choice(self._bodies), {**FORM, "X-Request-ID": key})
                answer = connection.getresponse()
                answer.read()
            except (OSError, HTTPException):
                connection.close()
                time.sleep(0.01)
            else:
                if answer.status == 200:
                    self.answered.add(key)

    def end(self) -> None:
        """Send them home."""
        self._ended.set()
        for thread in self._threads:
            thread.join()


def stop(typed: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Stop the server under load: every accepted request gets an answer."""
    bodies = [form(path.read_bytes()) for path in small(typed.photographs, scratch / "small", 16)]
    rounds = []
    for number in range(typed.number or 10):
        log = scratch / f"log{number}"
        with served(log, typed.model, "--category", CATEGORY) as server:
            crowd = Crowd(server, bodies, 16)
            time.sleep(3 + number / 7)
            asked = time.monotonic()
            code = server.end()
            took = time.monotonic() - asked
            crowd.end()
        logged = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        accepted = {line["request_id"] for line in logged if line["message"] == "answered"}
        rounds.append(
            {"accepted": len(accepted), "answered 200": len(crowd.answered), "lost": len(accepted - crowd.answered),
             "exit code": code, "seconds to stop": round(took, 2)}
        )  # fmt: skip
        print(rounds[-1], flush=True)
    return {"clients": 16, "rounds": rounds}


if __name__ == "__main__":
    main()
