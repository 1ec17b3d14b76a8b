"""docs/reference.md names what the code has, and nothing else. What there is is found here another way than the page
is made: by what is scraped, by what `--help` prints, by reading the sources."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client import generate_latest

from bema.contract import names
from bema.contract.statuses import ConditionType, Reason
from bema_cli.application import app
from bema_operator import settings
from bema_operator.metrics import Metrics as OperatorMetrics
from bema_runtime.metrics import Metrics as RuntimeMetrics
from tools import docstrings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference.md").read_text("utf-8")
SOURCES = [
    path
    for folder in ("sdk/python/src", "sdk/cli/src", "operator/src", "runtime-image/python/src")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
NAME = re.compile(r'"((?:bema\.dev|app\.kubernetes\.io|batch\.kubernetes\.io)/[a-z-]+)"')


def sections() -> dict[str, list[list[str]]]:
    """The rows of each table, by the heading above it."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in PAGE.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| ") and not line.startswith("| ---"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.setdefault(heading, []).append(cells)
    return {heading: rows[1:] for heading, rows in found.items()}


TABLES = sections()


def words(heading: str, column: int = 0) -> set[str]:
    """What stands between back-ticks in a column."""
    return {word for row in TABLES[heading] for word in re.findall(r"`([^`]+)`", row[column])}


def test_condition_types_and_reasons() -> None:
    assert words("Conditions") == set(ConditionType)
    assert words("Reasons") == set(Reason)


def test_labels_annotations_and_metadata() -> None:
    source = Path(names.__file__).read_text("utf-8")
    headings = ("Labels", "Annotations", "Metadata of streams and consumers")
    assert set().union(*map(words, headings)) == set(NAME.findall(source))


def test_no_label_or_annotation_is_written_outside_the_module_of_names() -> None:
    found = {name for path in SOURCES if path != Path(names.__file__) for name in NAME.findall(path.read_text("utf-8"))}
    # Stands for an image in memory, and never leaves the process.
    assert found == {"bema.dev/local"}


@pytest.mark.parametrize(
    ("heading", "scraped"),
    [
        pytest.param("Metrics of a Step's pods", generate_latest(RuntimeMetrics().registry), id="runtime"),
        pytest.param("Metrics of the operator", OperatorMetrics().text(), id="operator"),
    ],
)
def test_metrics_as_they_are_scraped(heading: str, scraped: bytes) -> None:
    found = dict(re.findall(r"^# TYPE (\w+) (\w+)$", scraped.decode(), re.MULTILINE))
    # The client adds the time when each of them began.
    found = {name: type_ for name, type_ in found.items() if not name.endswith("_created")}
    assert {row[0].strip("`"): row[1] for row in TABLES[heading]} == found


def test_labels_of_metrics_are_those_of_samples() -> None:
    measures = RuntimeMetrics()
    step = measures.of("shop", "pay")
    step.runs["event", "ok"] += 1
    step.partitions = lambda: 0
    measures.hot_keys["shop", "stock"] += 1
    rows = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in TABLES["Metrics of a Step's pods"]}
    for family in measures.registry.collect():
        for sample in family.samples:
            name = re.sub(r"_(bucket|sum|count)$", "", sample.name)
            assert sample.labels.keys() - {"le"} == rows[name]


def test_the_operators_settings_as_its_help_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings.parse(["--help"], {})
    said = capsys.readouterr().out
    assert words("The operator's settings") == set(re.findall(r"--[a-z-]+", said)) - {"--help"}
    assert words("The operator's settings", 1) == set(re.findall(r"BEMA_[A-Z_]+", said))


def test_what_the_manifest_of_the_operator_sets_is_a_setting() -> None:
    set_there = re.findall(r"name: (BEMA_\w+)", (ROOT / "deploy/operator.yaml").read_text("utf-8"))
    assert set_there
    assert set(set_there) <= words("The operator's settings", 1)


def commands(words: str = "bema", command: Any = None) -> Iterator[tuple[str, Any]]:
    command = command or typer.main.get_command(app)
    if not hasattr(command, "commands") or command.params:
        yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(f"{words} {name}", inner)


def test_commands_and_their_options() -> None:
    found = {}
    for heading in TABLES:
        if heading.startswith("`bema"):
            bare = re.sub(r" \[?[A-Z]+.*", "", heading.strip("`"))
            found[bare] = words(heading)
    expected = {
        name: {
            option
            for parameter in command.params
            if parameter.param_type_name == "option" and not parameter.hidden
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        for name, command in commands()
    }
    assert found == expected


def test_nothing_stands_there_without_a_meaning() -> None:
    bare = [row[0] for rows in TABLES.values() for row in rows if len(row[-1]) < 5]
    assert bare == []


def test_a_text_belongs_to_the_name_right_above_it() -> None:
    assert docstrings.under(Sample) == {"FIRST": "One and two.", "SECOND": "", "THIRD": "Three."}


class Sample:
    FIRST = 1
    """One
    and two."""
    SECOND = 2
    THIRD: int = 3
    """Three."""

    def method(self) -> None:
        """Of the method."""
