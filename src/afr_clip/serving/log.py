"""Log lines as JSON, each with the id of the request that it is about."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import datetime, timezone

from afr_clip.files import in_one_line

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that this task answers."""


class JsonFormatter(logging.Formatter):
    """One JSON object on a line: time, level, logger, message, request id, and what ``extra`` has under ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        content = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": in_one_line(record.getMessage()),
            "request_id": request_id.get(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)


def log_as_json() -> None:
    """Send the log of this process to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
