"""python -m tools.images: base, wheels, build.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 cannot run on this machine (the message says what is missing).
"""

import argparse
import sys

from tools.cluster import errors, stages
from tools.images import bases, catalogues, engines


def main() -> int:
    """Parse, act, and turn our errors into one message and an exit code."""
    chosen = _parser().parse_args()
    try:
        _run(chosen)
    except errors.ClusterError as failed:
        stages.say(f"tools.images: {failed}")
        return failed.exit_code
    return 0


def _run(chosen: argparse.Namespace) -> None:
    match chosen.command:
        case "base":
            print(bases.ensure(engines.find()).reference)
        case "wheels":
            for name in chosen.names or catalogues.IMAGES:
                catalogues.prepare(catalogues.IMAGES[name], chosen.python)
                print(catalogues.IMAGES[name].wheels)
        case "build":
            for name in chosen.names or catalogues.IMAGES:
                print(catalogues.build(name).archive)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.images", description="Our container images.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("base", help="make the base image when it is not there yet; prints its name")
    wheels = commands.add_parser("wheels", help="lay out wheels under build/wheels, for a plain `docker build`")
    wheels.add_argument("--python", default="3.13", help="the image's Python (default: that of the default base image)")
    building = commands.add_parser("build", help="build images; prints the paths of their archives")
    for added in (wheels, building):
        added.add_argument("names", nargs="*", choices=[*catalogues.IMAGES, []], metavar="NAME", help="default: all")
    return parser


if __name__ == "__main__":
    sys.exit(main())
