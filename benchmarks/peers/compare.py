"""Times one Dreamer update of ours and of public implementations, in turn, and prints the ratios.

    python benchmarks/peers/compare.py --sizes small --threads 2 --rounds 20

Each peer gets an environment of its own under --environments, made when it is missing (a gigabyte
each). Peers are measured one by one against ours: both processes stay alive and take one update
each in every round, so that whatever else the machine does falls on both.
"""

import argparse
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
TORCH = "torch==2.13.0"
PEERS = {"sheeprl": "sheeprl==0.8.4", "torchrl": "torchrl==0.14.1"}
# Ours of each precision against which of theirs; `compiled` is fp32 with torch.compile.
THEIRS = {
    "fp32": {"sheeprl": ("fp32", "compiled"), "torchrl": ("fp32",)},
    "bf16": {"sheeprl": ("fp32", "compiled", "bf16"), "torchrl": ("fp32", "bf16")},
}
WARM_UP = 3  # rounds that are not counted; the first compiles
# The same for all: glibc keeps freed memory instead of handing it back and faulting it in again.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "MALLOC_TOP_PAD_": str(2**26),
}
LINE = "{ours:9} {ours_ms:7.0f} ms   {theirs:17} {theirs_ms:7.0f} ms   ratio {ratio:.2f}"


class Contestant:
    """A process that takes one update whenever it is told to."""

    def __init__(self, python: Path, name: str, sizes: str, precision: str, threads: int) -> None:
        self.name = f"{name} {precision}"
        script = HERE / f"{name}_dreamer.py"
        self.process = subprocess.Popen(
            [str(python), str(script), sizes, precision, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | ALLOCATOR | {"OMP_NUM_THREADS": str(threads)},
        )

    def update(self) -> float:
        """Milliseconds."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            try:
                return float(line)
            except ValueError:
                continue  # a library greets
        raise SystemExit(f"{self.name} ended early; run its script by hand to see why")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def environment(folder: Path, peer: str) -> Path:
    """The peer's interpreter; installs what is missing."""
    python = folder / peer / "bin" / "python"
    check = [str(python), "-c", f"import {peer}"]
    if not python.exists() or subprocess.run(check, capture_output=True).returncode:
        print(f"Installing {PEERS[peer]} into {folder / peer}", file=sys.stderr)
        venv.create(folder / peer, with_pip=True)
        for packages in ([TORCH], [TORCH, PEERS[peer]]):
            pip = [str(python), "-m", "pip", "install", "--quiet", *packages]
            subprocess.run(pip, check=True)
    return python


def duel(one: Contestant, other: Contestant, rounds: int) -> dict[str, object]:
    """Median milliseconds of both, and the median of the rounds' ratios, ours over theirs."""
    try:
        pairs = [(one.update(), other.update()) for _ in range(WARM_UP + rounds)][WARM_UP:]
    finally:
        one.stop()
        other.stop()
    ours, theirs = zip(*pairs, strict=True)
    return {
        "ours": one.name,
        "theirs": other.name,
        "ours_ms": median(ours),
        "theirs_ms": median(theirs),
        "ratio": median(a / b for a, b in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", choices=("paper", "small"), default="small")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--environments", type=Path, default=Path("runs/peers"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    pythons = {peer: environment(given.environments, peer) for peer in PEERS}
    pythons["lsp"] = Path(sys.executable)
    results = []
    for mine, peers in THEIRS.items():
        for peer, precision in ((peer, each) for peer, kinds in peers.items() for each in kinds):
            pair = ("lsp", mine), (peer, precision)
            one, other = (
                Contestant(pythons[name], name, given.sizes, kind, given.threads)
                for name, kind in pair
            )
            results.append(duel(one, other, given.rounds))
            print(LINE.format(**results[-1]), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
