"""`bema check` and `bema render`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from bema import discoveries
from bema.contract import errors
from bema.discoveries import Problem
from bema_cli import checks, consoles, discovery, images, manifests, options
from bema_cli.checks import Findings


def check(
    folder: options.Folder = Path(),
    same_folder: options.FolderOption = None,
    image: options.Image = None,
    as_json: options.Json = False,
) -> None:
    """Find what would fail: exit code 1 when something would."""
    findings = findings_of(same_folder or folder, carries=image is None)
    if as_json:
        consoles.write_json(_plain(findings))
    else:
        _show(findings)
    if findings.problems:
        raise typer.Exit(consoles.FAILED)


def render(
    folder: options.Folder,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace of the App and the Steps.")
    ] = None,
    image: options.Image = None,
    reader: Annotated[
        manifests.Reader | None,
        typer.Option("--for", metavar="READER", help="`helm`: as a template of a chart, `{{` in code escaped."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write this file, only when all is well.", dir_okay=False),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write the App and the Steps as Kubernetes manifests, for `kubectl apply -f -` and for git."""
    findings = findings_of(folder, carries=image is None)
    if findings.problems:
        if as_json:
            consoles.write_json(
                {"error": "the Steps have problems", "problems": [_problem(p) for p in findings.problems]}
            )
        for problem in findings.problems:
            consoles.err().print(consoles.line("✗", "bold red", str(problem)))
        if advice := findings.advice():
            consoles.err().print(advice)
        raise typer.Exit(consoles.FAILED)
    objects = [manifests.app_manifest(findings.app, namespace=namespace)] if findings.app else []
    objects += [
        manifests.manifest(
            found.inline() if image is None else found.step({"image": image}),
            metadata=found.metadata,
            namespace=namespace,
        )
        for found in findings.steps
    ]
    text = manifests.write_list(objects) if as_json else manifests.write(objects)
    text = manifests.escaped(text, reader)
    if output is None:
        consoles.write(text)
    else:
        with consoles.failing(as_json=as_json):
            manifests.save(text, output)


def findings_of(folder: Path, *, carries: bool) -> Findings:
    """What there is to say about a folder. `carries`: the Steps shall carry their code inside."""
    try:
        env = options.env_of(folder)
    except errors.StepInvalid as error:
        return checks.examine(discoveries.merge([], [Problem(file=".env", message=str(error))]))
    findings = checks.examine(asyncio.run(discovery.discover(folder, env)))
    if carries:
        available = images.modules()
        findings = findings.with_problems(checks.carried(findings.steps, available))
        findings = findings.with_hints(available)
    if not findings.steps and not findings.problems:
        findings = findings.with_problems([Problem(file=".", message=checks.NOTHING)])
    return findings


def _problem(problem: Problem) -> dict[str, Any]:
    return {"file": problem.file, "line": problem.line, "message": problem.message}


def _plain(findings: Findings) -> dict[str, Any]:
    return {
        "ok": not findings.problems,
        "steps": [
            {
                "name": found.name,
                "file": found.file,
                "kinds": [kind.value for kind in found.step().spec.kinds] or ["noop"],
            }
            for found in findings.steps
        ],
        "problems": [_problem(problem) for problem in findings.problems],
        "advice": findings.advice(),
        "warnings": list(findings.warnings),
        "open": [
            {"method": endpoint.method, "path": endpoint.path, "step": endpoint.step} for endpoint in findings.endpoints
        ],
    }


def _show(findings: Findings) -> None:
    console = consoles.out()
    for problem in findings.problems:
        console.print(consoles.line("✗", "bold red", str(problem)))
    if advice := findings.advice():
        console.print(advice)
    for warning in findings.warnings:
        console.print(consoles.line("!", "yellow", warning))
    for endpoint in findings.endpoints:
        text = f"open to whoever reaches it: {endpoint.method} {endpoint.path} ({endpoint.step})"
        console.print(consoles.line("·", "cyan", text))
    sign, style = ("✗", "bold red") if findings.problems else ("✓", "bold green")
    good, bad, warned = len(findings.steps), len(findings.problems), len(findings.warnings)
    console.print(
        consoles.line(
            sign, style, f"{_count(good, 'good Step')}, {_count(bad, 'problem')}, {_count(warned, 'warning')}"
        )
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
