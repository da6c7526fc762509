"""Run every command of the README's table and renew its figures: python docs/figures.py [WORD of the rows to renew].

Rows whose command names $HMC_ZOO need that folder of public checkpoints; without it they stay as they are.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from hmcompress.report.format import format_bytes, format_error, format_ratio, format_tolerance

ROOT = Path(__file__).parents[1]


def rows(text: str) -> list[str]:
    """The lines of the table that hold a command to run."""
    return [line for line in text.splitlines() if line.startswith("|") and "`hmcompress compress" in line]


def command_of(row: str) -> list[str] | None:
    """The arguments after `hmcompress`; None where the command needs a folder that is not here."""
    command = row.rsplit("`", 2)[1]
    if "$HMC_ZOO" in command and "HMC_ZOO" not in os.environ:
        return None
    return shlex.split(os.path.expandvars(command))[1:]


def measure(arguments: list[str]) -> dict:
    """The JSON report of one command; nothing is written."""
    command = [sys.executable, "-m", "hmcompress", *arguments, "--dry-run", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: exit code {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def cells(report: dict) -> list[str]:
    """bound, before, after, ratio, error as the table shows them."""
    network = report["network"]
    error = network["error"] if network else max(layer["error"] for layer in report["layers"])
    kept = (
        f", NTK {format_tolerance(network['ntk']['tol'])}"
        if network and network["ntk"] and network["ntk"]["tol"]
        else ""
    )
    bound = f"{report['metric']} {format_tolerance(report['tol'])}{kept}"
    sizes = (format_bytes(report["source_bytes"]), format_bytes(report["output_bytes"]))
    return [bound, *sizes, format_ratio(report["ratio"]), format_error(error)]


def renewed(row: str) -> str:
    arguments = command_of(row)
    if arguments is None:
        return row
    parts = [part.strip() for part in row.strip("|").split("|")]
    return "| " + " | ".join([parts[0], *cells(measure(arguments)), parts[-1]]) + " |"


def main() -> None:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for row in rows(text):
        if word in row:
            text = text.replace(row, renewed(row))
            print("renewed:", row.split("|")[1].strip(), flush=True)
            readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
