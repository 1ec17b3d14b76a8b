"""python -m tools.cluster: build, up, down, status, logs, load, kubectl.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 cannot run on this machine (the message says what is missing).
"""

import argparse
import os
import sys
from ipaddress import IPv4Network
from pathlib import Path

from tools.cluster import boxes, builds, clusters, errors, kubectls, logs, names, records, stages


def main() -> int:
    """Parse, act, and turn our errors into one message and an exit code."""
    chosen = _chosen(sys.argv[1:])
    try:
        return _run(chosen)
    except errors.ClusterError as failed:
        stages.say(f"tools.cluster: {failed}")
        return failed.exit_code
    except KeyboardInterrupt:
        return 130


def _run(chosen: argparse.Namespace) -> int:
    match chosen.command:
        case "build":
            return _build(chosen)
        case "up":
            cluster = clusters.up(chosen.name, nodes=chosen.nodes, block=chosen.block)
            print(cluster.kubeconfig)
        case "down":
            if not clusters.down(chosen.name):
                stages.say(f"cluster {chosen.name} is not up")
        case "status":
            return _status(chosen.name)
        case "logs":
            return _logs(chosen)
        case "load":
            for archive in chosen.archives:
                with stages.stage(f"loading {archive}"):
                    print("\n".join(clusters.get(chosen.name).load(archive)))
        case "kubectl":
            record = clusters.get(chosen.name).record
            command = [str(word) for word in kubectls.command(record.layout.kubeconfig, *chosen.arguments)]
            os.execve(command[0], command, kubectls.environment())
    return 0


def _build(chosen: argparse.Namespace) -> int:
    if chosen.wait:
        print(builds.wait().base)
    elif chosen.background:
        pid = builds.start_in_background()
        stages.say(f"building in the background as process {pid}; log: {builds.log()}" if pid else "built already")
    else:
        print(builds.build().base)
    return 0


def _status(name: str) -> int:
    record = records.find(name)
    if record is None:
        stages.say(f"cluster {name} is not up")
        return 1
    cluster = clusters.Cluster(record)
    print(f"cluster     {name} ({record.identity})")
    print(f"addresses   {record.plan.block}, API server {record.plan.api_url}, this machine {record.plan.host}")
    print(f"kubeconfig  {cluster.kubeconfig}")
    for index in record.indexes:
        for status in boxes.statuses(record.layout, index):
            state = "running" if status.running else f"not running (last exit code {status.last_exit})"
            print(f"{names.node(index):<11} {status.name:<20} {state}, starts: {status.starts}")
    wrong = cluster.problems()
    print("\n".join(f"problem     {text}" for text in wrong) or "health      well")
    return 1 if wrong else 0


def _logs(chosen: argparse.Namespace) -> int:
    record = records.find(chosen.name)
    if record is None:
        raise errors.ClusterError(f"cluster {chosen.name} is not up, and there are no logs of it")
    if chosen.component is None:
        print(logs.tails(record, lines=chosen.lines))
        return 0
    found = logs.files(record)
    if chosen.component not in found:
        raise errors.ClusterError(f"no component {chosen.component!r}; there are {', '.join(found)}")
    print(logs.tail(found[chosen.component], chosen.lines))
    return 0


def _chosen(words: list[str]) -> argparse.Namespace:
    """What the command line says. The words after `kubectl` are kubectl's, options among them."""
    end = words.index("kubectl") + 1 if "kubectl" in words else len(words)
    chosen = _parser().parse_args(words[:end])
    chosen.arguments = words[end:]
    return chosen


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.cluster", description="A real Kubernetes for tests.")
    parser.add_argument("--name", default="dev", help="the cluster's name (default: dev)")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(command: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(command, help=text, description=text)
        if command not in ("build", "kubectl"):
            added.add_argument("--name", default=argparse.SUPPRESS, help="the cluster's name (default: dev)")
        return added

    build = add("build", "build the programs into the cache")
    build.add_argument("--background", action="store_true", help="return at once")
    build.add_argument("--wait", action="store_true", help="wait for a build in the background, showing progress")
    starting = add("up", "bring the cluster up, or verify that it is; prints the path of its kubeconfig")
    starting.add_argument("--nodes", type=int, help="how many nodes (default: 1)")
    starting.add_argument("--block", type=IPv4Network, help="the /16 for its addresses (default: a free one)")
    add("down", "take the cluster down, without residue, also after a crash")
    add("status", "what runs, and whether it is well")
    showing = add("logs", "the ends of the components' logs")
    showing.add_argument("component", nargs="?")
    showing.add_argument("--lines", type=int, default=40)
    loading = add("load", "import image archives on every node")
    loading.add_argument("archives", nargs="+", type=Path)
    add("kubectl", "run kubectl (choose a cluster before the word: --name NAME kubectl …)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
