"""Part of make lint: whether a locked package has a known vulnerability, if that can be checked."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

import console
from distracted.errors import DistractedError

_SECONDS = 300.0


def main(
    lock: Annotated[Path, typer.Option(help="The locked packages.")] = Path("requirements.lock"),
) -> None:
    """Ask pip-audit; say aloud where its database cannot be reached."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--format", "json"]
    command += ["--disable-pip", "--no-deps", "--progress-spinner", "off"]  # what is locked, and nothing else
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        packages = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        packages = []
    vulnerable = [package for package in packages if "vulns" in package]
    if not vulnerable:
        console.say("vulnerabilities: skipped, the database cannot be reached from here")
        return
    known = [
        f"{package['name']} {package['version']}: {flaw['id']}, fixed in {flaw['fix_versions'] or 'none yet'}"
        for package in vulnerable
        for flaw in package["vulns"]
    ]
    console.say(
        f"vulnerabilities: {len(known)} known in {len(vulnerable)} of {len(packages)} locked packages"
    )
    if known:
        raise DistractedError("locked packages with known vulnerabilities:\n" + "\n".join(known))


if __name__ == "__main__":
    console.run(main)
