"""Log sentences with what they are bound to: an app, a Step."""

from __future__ import annotations

import datetime
import json
import logging
import sys

_BOUND = ("app", "step")
_QUIET = ("aiohttp", "asyncio", "nats")


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname, "message": record.getMessage(), "logger": record.name}
        line |= {name: getattr(record, name) for name in _BOUND if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class Text(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        where = "/".join(str(getattr(record, name)) for name in _BOUND if hasattr(record, name))
        text = super().format(record)
        return f"{text} [{where}]" if where else text


def set_up(*, as_json: bool, debug: bool) -> None:
    """Log to standard error. The words of libraries only from warnings on: they are about their machinery."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else Text("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
