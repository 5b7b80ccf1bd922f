"""What `import interpolants` costs over `import torch`, interleaved in one run.

    python -m benchmarks.import_time [--rounds 15]

Each import runs in a fresh interpreter; the figure is the median over rounds of the ratio within a round.
`import torch` stands in the table twice: the second row is the noise.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

from benchmarks.machine import save

STATEMENTS = {
    "import torch": "import torch",
    "import torch again (noise)": "import torch",
    "import interpolants": "import interpolants",
}


def seconds(statement: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    for statement in STATEMENTS.values():
        seconds(statement)  # Fill the file cache.
    rows = [{name: seconds(statement) for name, statement in STATEMENTS.items()} for _ in range(rounds)]
    figures = {}
    for name in STATEMENTS:
        ratio = statistics.median(row[name] / row["import torch"] for row in rows)
        figures[name] = {"ratio": ratio, "seconds": statistics.median(row[name] for row in rows)}
        print(f"{name:28}{ratio:8.3f}{figures[name]['seconds']:8.2f} s")
    print(save("import_time", {"rounds": rounds, "rows": figures}))


if __name__ == "__main__":
    main()
