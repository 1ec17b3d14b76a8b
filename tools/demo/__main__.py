"""python -m tools.demo: dev, cluster, file.

Exit codes: 0 the audit passed, 1 it failed or the demo could not be played, 2 wrong usage, 3 cannot run on this machine
(the message says what is missing).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.cluster import errors as cluster_errors
from tools.cluster import paths, stages
from tools.demo import cluster_demos, dev_demos, orderfiles
from tools.demo.errors import DemoError

FILE = paths.REPOSITORY / "examples" / "orders" / "orders.txt"
LOG = paths.REPOSITORY / "build" / "demo" / "dev.log"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, play, and turn our errors into one message and an exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        return _run(chosen)
    except cluster_errors.ClusterError as failed:
        stages.say(f"tools.demo: {failed}")
        return failed.exit_code
    except (DemoError, ValueError) as failed:
        stages.say(f"tools.demo: {failed}")
        return 1
    except KeyboardInterrupt:
        return 130


def _run(chosen: argparse.Namespace) -> int:
    match chosen.command:
        case "dev":
            lines = orderfiles.load(chosen.file, chosen.orders)
            stay = chosen.stay or (sys.stdin.isatty() and sys.stdout.isatty())
            options = dev_demos.Options(lines, folder=chosen.folder.resolve(), log=chosen.log.resolve(), stay=stay)
            return 0 if asyncio.run(dev_demos.run(options)) else 1
        case "cluster":
            codes = tuple(cluster_demos.Code) if chosen.code == "both" else (cluster_demos.Code(chosen.code),)
            lines = orderfiles.load(chosen.file, chosen.orders)
            chosen_cluster = cluster_demos.Options(
                lines, codes=codes, name=chosen.name, keep=chosen.keep, kind=chosen.kind
            )
            return 0 if cluster_demos.run(chosen_cluster) else 1
        case "file":
            sys.stdout.write(orderfiles.dump(list(orderfiles.generate(chosen.orders, seed=chosen.seed))))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description="Orders under load and under fire.")
    commands = parser.add_subparsers(dest="command", required=True)
    dev = commands.add_parser("dev", help="in `bema dev`, its worker killed in mid-run")
    dev.add_argument("--folder", type=Path, default=FILE.parent, help="the app (default: examples/orders)")
    dev.add_argument(
        "--log", type=Path, default=LOG, help="file for the app's own output (default: build/demo/dev.log)"
    )
    dev.add_argument("--stay", action="store_true", help="stay up at the end, as on a terminal")
    cluster = commands.add_parser("cluster", help="on a test cluster, while pods are deleted by force")
    cluster.add_argument("--code", choices=("inline", "image", "both"), default="both", help="how code reaches pods")
    cluster.add_argument("--name", default="demo", help="the cluster's name (default: demo)")
    ending = cluster.add_mutually_exclusive_group()
    ending.add_argument("--keep", action="store_true", help="leave the cluster and the app up")
    ending.add_argument("--kind", action="store_true", help="on a new cluster of kind's, which needs Docker")
    for added in (dev, cluster):
        added.add_argument("--orders", type=int, help="send only so many lines of the file")
        added.add_argument("--file", type=Path, default=FILE, help="the file of orders")
    file = commands.add_parser("file", help="write a file of orders to standard output")
    file.add_argument("--orders", type=int, default=1000)
    file.add_argument("--seed", type=int, default=orderfiles.SEED)
    return parser


if __name__ == "__main__":
    sys.exit(main())
