"""Cut the Chinese font for plots down to the 3,755 common characters of GB 2312: `python tools/make_font.py SOURCE.ttf`.

SOURCE is DroidSansFallbackFull.ttf (Apache-2.0, the Android Open Source Project; Debian's fonts-droid-fallback).
"""

import sys
from pathlib import Path

from fontTools import subset

OUT = (
    Path(__file__).parents[1]
    / "instruct_course"
    / "assets"
    / "fonts"
    / "DroidSansFallback-common.ttf"
)


def common():
    """GB 2312's level 1 characters and Chinese punctuation."""
    rows = [*range(0xA1, 0xA4), *range(0xB0, 0xD8)]
    codes = (bytes((hi, lo)) for hi in rows for lo in range(0xA1, 0xFF))
    return "".join(c.decode("gb2312", errors="ignore") for c in codes)


if __name__ == "__main__":
    subset.main(
        [
            sys.argv[1],
            f"--text={common()}",
            f"--output-file={OUT}",
            "--name-IDs=*",
            "--notdef-outline",
        ]
    )
    print(f"{OUT.name}: {OUT.stat().st_size / 1e6:.1f} MB")
