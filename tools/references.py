"""Writes docs/reference.md from the code: what has a name, and the sentence that stands beside it there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from bema.contract import names
from bema.contract.statuses import ConditionType, Reason
from bema_cli.application import app
from bema_operator import reasons, settings
from bema_operator.metrics import Metrics as OperatorMetrics
from bema_operator.settings import Settings
from bema_runtime.metrics import Metrics as RuntimeMetrics
from tools import docstrings

Row = Sequence[str]

_HEAD = """\
<!-- Generated from the code by `make gen`; change what stands there. -->
# Reference

Everything that has a name and is not a field of the Step or the App: those are in `kubectl explain step.spec` and
`kubectl explain app.spec`, and in words in [steps.md](steps.md) and [apps.md](apps.md). The command line in words is in
[cli.md](cli.md).
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_conditions(), *_names(), *_metrics(), *_commands(), *_operator()])


def _conditions() -> Iterator[str]:
    yield "## Conditions\n"
    yield "What `status.conditions` of Steps and Apps are about. [gitops.md](gitops.md#health) says who heeds which.\n"
    types = docstrings.under(ConditionType)
    yield _table(("type", "when `True`"), ((_code(item), types[item.name]) for item in ConditionType))
    yield "## Reasons\n"
    yield "Why a condition is as it is. One that keeps a Step from being ready and is marked is an Event, too.\n"
    words = docstrings.under(Reason)
    yield _table(
        ("reason", "Event", "what it means"),
        ((_code(item), "yes" if item in reasons.TO_ACT_UPON else "", words[item.name]) for item in Reason),
    )


def _names() -> Iterator[str]:
    texts = docstrings.under(names)
    for title, prefix in (
        ("Labels", "LABEL_"),
        ("Annotations", "ANNOTATION_"),
        ("Metadata of streams and consumers", "METADATA_"),
    ):
        yield f"## {title}\n"
        found = [(_code(getattr(names, name)), text) for name, text in texts.items() if name.startswith(prefix)]
        yield _table(("name", "what it is"), found)


@dataclasses.dataclass(frozen=True)
class Measure:
    """A metric as it is scraped."""

    name: str
    type: str
    labels: Sequence[str]
    text: str


def measures_of_runtime() -> list[Measure]:
    """What a Step's process, and `bema dev`, measures."""
    return [_measure(found, found._labelnames) for found in RuntimeMetrics().collect()]  # type: ignore[attr-defined]


def measures_of_operator() -> list[Measure]:
    """What the operator measures."""
    # A metric with labels and without a value yet says nowhere else which labels it has.
    parts = [part for part in vars(OperatorMetrics()).values() if hasattr(part, "_labelnames")]
    return [_measure(found, part._labelnames) for part in parts for found in part.collect()]


def _measure(found: Any, labels: Iterable[str]) -> Measure:
    name = f"{found.name}_total" if found.type == "counter" else found.name
    return Measure(name, found.type, list(labels), found.documentation)


def _metrics() -> Iterator[str]:
    for title, measures in (
        ("Metrics of a Step's pods", measures_of_runtime()),
        ("Metrics of the operator", measures_of_operator()),
    ):
        yield f"## {title}\n"
        yield f"At `/metrics`, port {names.PORT_METRICS}. A `…_created` beside one is the time when it began.\n"
        rows = [(_code(item.name), item.type, ", ".join(map(_code, item.labels)), item.text) for item in measures]
        yield _table(("metric", "type", "labels", "what it is"), rows)


def commands() -> list[tuple[str, Any]]:
    """Every command of `bema` that does something, or has options, by its words. typer's commands are no classes of
    click's."""
    found: list[tuple[str, Any]] = []
    waiting: list[tuple[str, Any]] = [("bema", typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop()
        below = getattr(command, "commands", None)
        if below is None or options_of(command):
            found.append((words, command))
        waiting += [(f"{words} {name}", inner) for name, inner in (below or {}).items()]
    return sorted(found, key=lambda item: item[0])


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    for words, command in commands():
        arguments = [item for item in command.params if item.param_type_name == "argument"]
        usage = " ".join([words, *(_argument(item) for item in arguments)])
        yield f"### `{usage}`\n"
        yield f"{command.help}\n"
        yield _table(("option", "default", "what it does"), map(_option, options_of(command)))


def options_of(command: Any) -> list[Any]:
    """The options of a command that people are told of."""
    return [item for item in command.params if item.param_type_name == "option" and not item.hidden]


def _argument(argument: Any) -> str:
    name = (argument.metavar or argument.name or "").upper().strip("[]")
    many = "…" if argument.nargs == -1 else ""
    return f"{name}{many}" if argument.required else f"[{name}]{many}"


def _option(option: Any) -> Row:
    spelled = ", ".join(map(_code, [*option.opts, *option.secondary_opts]))
    default = option.default
    shown = "required" if option.required else "" if default is None or default is False else _default(default)
    variable = f" Or `{option.envvar}`." if isinstance(option.envvar, str) else ""
    return spelled, shown, f"{option.help}{variable}"


def _operator() -> Iterator[str]:
    yield "## The operator's settings\n"
    yield "An option wins over its variable. The image's command takes options as arguments.\n"
    texts, defaults = docstrings.under(Settings), Settings()
    options = {field: (f"--{field.replace('_', '-')}", variable) for field, variable, _ in settings.ARGUMENTS}
    options |= {field: (option, "") for field, option, _ in settings.FLAGS} | {"kubeconfig": ("--kubeconfig", "")}
    flags = {field: "The option turns it off." for field, *_ in settings.FLAGS if getattr(defaults, field)}
    rows = []
    for field in dataclasses.fields(Settings):
        option, variable = options[field.name]
        text = f"{texts[field.name]} {flags.get(field.name, '')}".strip()
        rows.append((_code(option), _code(variable), _default(getattr(defaults, field.name)), text))
    yield _table(("option", "variable", "default", "what it is"), rows).rstrip("\n") + "\n"


def _default(value: object) -> str:
    match value:
        case None | () | "":
            return ""
        case bool():
            return _code(str(value).lower())
        case tuple():
            return _code(",".join(map(str, value)))
        case Path():
            return _code(value.as_posix())
        case float():
            return _code(f"{value:.15g}")
        case _:
            return _code(value)


def _code(text: object) -> str:
    return f"`{text}`" if str(text) else ""


def _table(heads: Row, rows: Iterable[Row]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
