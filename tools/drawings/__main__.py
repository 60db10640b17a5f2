"""Write the drawings, all or those named: `python -m tools.drawings [NAME ...] [--check]`.

With --check nothing is written: it names the files that differ from what the functions give, and
the exit code is 1.
"""

import argparse
import sys

from tools.drawings.registry import FOLDER, functions


def main() -> int:
    """Write or check the files; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.drawings", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--check", action="store_true", help="write nothing, name what differs")
    options = parser.parse_args()
    known = functions()
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no drawing {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    FOLDER.mkdir(exist_ok=True)
    stale = []
    for name in options.names or sorted(known):
        path = FOLDER / f"{name}.svg"
        text = known[name]().svg()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.name)
        if not options.check:
            path.write_text(text, encoding="utf-8", newline="\n")
    if not options.names:
        extra = sorted(path.name for path in FOLDER.glob("*") if path.stem not in known)
        stale += [f"{name} (made by no function)" for name in extra]
    if stale:
        print("\n".join(stale))
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
