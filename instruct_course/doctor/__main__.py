"""`python -m instruct_course.doctor`: as `instruct-course doctor`, where that does not start."""

import argparse
import json
import sys

from instruct_course.doctor import describe, examine, exit_code, names

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Examine, print, and give the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m instruct_course.doctor",
        description="Find what is broken in this environment, and say what mends it. "
        "Exit code 1: a fault was found.",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        choices=names(),
        help=f"look at this alone: {', '.join(names())}",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(arguments)
    facts = examine(args.only, quiet=args.json)
    print(json.dumps(facts, indent=1) if args.json else describe(facts))
    return exit_code(facts)


if __name__ == "__main__":
    sys.exit(main())
