"""Inspect what arrives in a folder, each photograph once, and send results to files, a webhook or an MQTT broker."""

import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import unquote

from afr_clip.cli.command import CommandLine, CommandLineError, run_command
from afr_clip.cli.detectors import add_detector_options, load_model, require_extra
from afr_clip.files import shown
from afr_clip.processes.signals import STOP_SIGNALS, listening
from afr_clip.watching.journal import Journal
from afr_clip.watching.sinks import MQTT_PASSWORD, MQTT_USER, SECRET, Csv, JsonLines, Mqtt, Sink, Webhook

_HOST = r"(?P<host>\[[0-9a-fA-F:.]+\]|[^/:@?#\[\]]+)(:(?P<port>\d+))?"

JOURNAL, JSON_LINES, CSV = "journal.sqlite", "inspections.jsonl", "inspections.csv"


def build_parser() -> CommandLine:
    """Define the command line."""
    parser = CommandLine(
        prog="afr-clip watch",
        description=__doc__,
        epilog=f"Environment: {SECRET} signs what a webhook gets, {MQTT_USER} and {MQTT_PASSWORD} log in to a broker.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where photographs arrive, also in folders below")
    parser.add_argument(
        "--model", default="pocket", help="pocket, run folder, checkpoint, or exported file (default: %(default)s)"
    )
    parser.add_argument("--category", metavar="WORDS", help="what the photographs show")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="calibration.json, for decisions")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/watch"), metavar="DIR",
        help=f"for {JSON_LINES}, {CSV} and {JOURNAL} (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--webhook", metavar="URL", help="also post each record")
    parser.add_argument("--mqtt", metavar="URL", help="also publish: mqtt://HOST[:PORT]/TOPIC, or mqtts://")
    parser.add_argument(
        "--drop-sink", action="append", default=[], metavar="NAME",
        help="forget a sink and its undelivered records; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--once", action="store_true", help="exit when every photograph in the folder has been inspected and delivered"
    )
    group = parser.add_argument_group("times, in seconds")
    for option, value, what in (
        ("poll", 0.5, "between two looks at the folder"),
        ("settle", 1.0, "without change until a file counts as complete"),
        ("give-up", 60.0, "without change until a file that cannot be read is reported"),
        ("grace", 5.0, "for deliveries when the command is stopped"),
    ):
        group.add_argument(
            f"--{option}", type=float, default=value, metavar="SECONDS", help=f"{what} (default: %(default)s)"
        )
    add_detector_options(parser)
    parser.add_argument(
        "--max-pixels", type=int, default=200_000_000, metavar="N", help="of a photograph (default: %(default)s)"
    )
    return parser


def sinks_of(out: Path, webhook: str | None, mqtt: str | None, environment: Mapping[str, str]) -> list[Sink]:
    """Make the sinks that a command line names.

    Raises:
        CommandLineError: If an address has another form.
    """
    sinks: list[Sink] = [JsonLines(out / JSON_LINES), Csv(out / CSV)]
    if webhook is not None:
        _require_webhook(webhook)
        sinks.append(Webhook(webhook, environment.get(SECRET) or None))
    if mqtt is not None:
        _require_mqtt(mqtt)
        require_extra("watch", ("paho",))
        user = environment.get(MQTT_USER)
        sinks.append(Mqtt(mqtt, None if user is None else (user, environment.get(MQTT_PASSWORD, ""))))
    return sinks


def _require_webhook(url: str) -> None:
    """Refuse what no attempt could ever reach, and what must not stand in a log."""
    if not re.fullmatch(r"[!-~]*", url):
        msg = "--webhook must be of ASCII characters without blanks. Write xn--... for the host and %XX for the others."
        raise CommandLineError(msg)
    if "@" in re.sub(r"^[a-z]+://|[/?#].*", "", url, flags=re.IGNORECASE):
        msg = f"--webhook must have no user and password, which others could read. {SECRET} signs what is sent."
        raise CommandLineError(msg)
    found = re.fullmatch(rf"https?://{_HOST}([/?#].*)?", url, re.IGNORECASE)
    if not found:
        msg = f"--webhook must be an address of http or https, got {shown(url)}. Write http://HOST/PATH."
        raise CommandLineError(msg)
    _require_place("--webhook", found)


def _require_mqtt(url: str) -> None:
    found = re.fullmatch(rf"mqtts?://{_HOST}/(?P<topic>.+)", url)
    if not found or re.search(r"[#+\0\ud800-\udfff]", unquote(found["topic"])):
        msg = f"--mqtt must be mqtt://HOST[:PORT]/TOPIC or mqtts://, got {shown(url)}. Topics have no # and +."
        raise CommandLineError(msg)
    _require_place("--mqtt", found)


def _require_place(option: str, found: re.Match[str]) -> None:
    host, port = found["host"], found["port"]
    if port is not None and not 0 < int(port) < 2**16:
        msg = f"The port of {option} must be from 1 to 65535, got {port}. Name the port that the receiver listens at."
        raise CommandLineError(msg)
    try:
        ip_address(host[1:-1]) if host.startswith("[") else host.encode("idna")  # as a connection does
    except ValueError as error:
        msg = f"{option} must name a host, got {shown(host)}. Write a name such as line1.example, or an IP address."
        raise CommandLineError(msg) from error


def main(typed: Sequence[str] | None = None) -> None:
    """Watch until a signal asks to stop, or everything is done."""
    arguments = build_parser().parse_args(typed)
    from afr_clip.watching.watch import WatchingSettings, watch  # noqa: PLC0415 - --help does not need it

    settings = WatchingSettings(
        arguments.poll, arguments.settle, arguments.give_up, arguments.once, arguments.grace, arguments.max_pixels
    )
    if not os.path.isdir(arguments.folder):  # noqa: PTH112 - Path.is_dir may raise
        msg = f"FOLDER must be a directory, got {shown(arguments.folder)}. Name the one that the camera writes into."
        raise CommandLineError(msg)
    sinks = sinks_of(arguments.out, arguments.webhook, arguments.mqtt, os.environ)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, force=True)
    stopped = threading.Event()
    journal = Journal(arguments.out / JOURNAL, arguments.folder)
    try:
        journal.leave([sink.name for sink in sinks], arguments.drop_sink)
        with listening(lambda *_: stopped.set(), (signal.SIGINT, *STOP_SIGNALS)):
            sys.stderr.write("loading: the model\n")
            name = Path(arguments.model).stem or "model"
            categories = [] if arguments.category is None else [arguments.category]
            model = load_model(name, arguments.model, categories, arguments.calibration, arguments)
            if arguments.category is None and len(model.categories) > 1:
                msg = f"--category must be one of {', '.join(map(shown, model.categories))}, got none. Name one."
                raise CommandLineError(msg)
            sys.stdout.write(f"watching: {shown(arguments.folder)}\n")
            sys.stdout.flush()
            number = watch(arguments.folder, model, journal, sinks, settings, stopped)
    finally:
        journal.close()
    sys.stdout.write(f"inspected: {number}\nrecords: {shown(arguments.out)}\n")


if __name__ == "__main__":
    run_command(main)
