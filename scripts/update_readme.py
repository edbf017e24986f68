"""Put the real output of `spectra analyze` into the README: python scripts/update_readme.py FILE."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def main() -> None:
    checkpoint = Path(sys.argv[1]).resolve()
    done = subprocess.run(
        [sys.executable, "-c", "from spectra.cli import main; main()", "analyze", checkpoint.name],
        cwd=checkpoint.parent,
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    output = "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip()
    text = README.read_text("utf-8")
    README.write_text(re.sub(r"(?s)(```text\n).*?(```)", rf"\g<1>{output}\n\g<2>", text, count=1))


if __name__ == "__main__":
    main()
