"""`bema doctor`: what is right with Bema on a cluster, and what is not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from bema.contract import names
from bema_cli import consoles, diagnoses, options
from bema_cli.diagnoses import Check, Verdict
from bema_cli.kubeconfigs import KubeconfigInvalid
from bema_cli.refusals import ClusterRefused

if TYPE_CHECKING:
    from bema_cli.kubeconfigs import Place

SYSTEM = "bema-system"

_SIGNS = {
    Verdict.OK: ("✓", "bold green"),
    Verdict.WARNING: ("!", "yellow"),
    Verdict.PROBLEM: ("✗", "bold red"),
    Verdict.UNKNOWN: ("?", "dim"),
}


def doctor(
    system: Annotated[
        str, typer.Option("--system", metavar="NAMESPACE", help="Namespace of the operator and of NATS.")
    ] = SYSTEM,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Look at the Steps of all namespaces.")
    ] = False,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
    as_json: options.Json = False,
) -> None:
    """Check Bema on a cluster: exit code 1 when there is a problem."""
    if all_namespaces and namespace is not None:
        raise typer.BadParameter("expected one namespace or all of them, found both", param_hint="--all-namespaces")
    if not names.is_label(system):
        raise typer.BadParameter(f"expected a namespace such as {SYSTEM}, found {system!r}", param_hint="--system")
    try:
        place = options.place(kubeconfig, context, namespace)
        checks = asyncio.run(_examine(place, system, all_namespaces))
    except (KubeconfigInvalid, ClusterRefused) as error:
        checks = [Check("cluster", Verdict.PROBLEM, str(error)), *diagnoses.unasked("there is nobody to ask")]
    has_problem = any(check.verdict is Verdict.PROBLEM for check in checks)
    if as_json:
        consoles.write_json({"ok": not has_problem, "checks": [_plain(check) for check in checks]})
    else:
        _write(consoles.out(), checks)
    if has_problem:
        raise typer.Exit(consoles.FAILED)


async def _examine(place: Place, system: str, all_namespaces: bool) -> list[Check]:
    from bema_cli import clusters, examinations

    async with clusters.connected(place) as cluster:
        scope = examinations.Scope(place=place, system=system, all_namespaces=all_namespaces)
        return await examinations.examine(cluster, scope)


def _plain(check: Check) -> dict[str, str | None]:
    return {
        "name": check.name,
        "verdict": check.verdict.value,
        "found": check.found,
        "advice": check.advice or None,
    }


def _write(console: Console, checks: list[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        sign, style = _SIGNS[check.verdict]
        console.print(Text.assemble((sign, style), f" {check.name:<{width}}  ", check.found))
        if check.advice:
            console.print(Text.assemble(" " * (width + 4), ("→ ", style), check.advice))
    counts = {verdict: sum(check.verdict is verdict for check in checks) for verdict in Verdict}
    worst = next((v for v in (Verdict.PROBLEM, Verdict.WARNING) if counts[v]), Verdict.OK)
    sign, style = _SIGNS[worst]
    text = ", ".join(
        f"{counts[verdict]} {words}" for verdict, words in _WORDS.items() if counts[verdict] or verdict is Verdict.OK
    )
    console.print(consoles.line(sign, style, text))


_WORDS = {
    Verdict.OK: "well",
    Verdict.WARNING: "to look at",
    Verdict.PROBLEM: "wrong",
    Verdict.UNKNOWN: "not known",
}
