"""make setup: install the project into .venv, or into the environment of the Python that runs this.

`.venv` belongs to the project and follows requirements.lock. In any other environment (a hosted notebook, a
cluster) torch, torchvision and numpy stay as they are, and so does every package that is new enough.
Only the standard library is imported, since nothing is installed yet.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
#: Packages that are compiled against each other: in a foreign environment they stay as they are.
KEPT = ("torch", "torchvision", "numpy")
#: Each brings the same folder cv2, so the one that is added has the version of the one that is there.
OPENCV = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
_DOT_SECONDS = 3.0
_TAIL = 20  # lines of pip's log that a failure shows


def main() -> int:
    parser = argparse.ArgumentParser(description="Install the project, for users or with extras.")
    parser.add_argument("--venv", action="store_true", help="install into .venv; make it if it is missing")
    parser.add_argument("--extras", default="", help="extras of pyproject.toml, e.g. 'onnx cluster'")
    parser.add_argument("--torch-index", default="", help="package index for torch and torchvision alone")
    parser.add_argument(
        "--wheels", default="", help="take packages from this folder alone, without a network"
    )
    options = parser.parse_args()
    if sys.version_info < (3, 11):  # noqa: UP036
        return refuse("Python 3.11 or newer is needed; make PYTHON=... names one")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.venv:
            return install_in(VENV, sys.argv[1:])
        return install(options.extras.replace(",", " ").split(), options.torch_index, options.wheels)
    except KeyboardInterrupt:
        return refuse("\ninterrupted; the same command continues", code=130)


def refuse(message: str, *, code: int = 1) -> int:
    print(message, file=sys.stderr)
    return code


def install_in(venv: Path, arguments: list[str]) -> int:
    """Make or repair an environment, then run this script with its Python."""
    python = venv / "bin/python"
    if not runs(python):  # missing, interrupted while it was made, or its Python was removed
        command = [sys.executable, "-m", "venv", "--clear", str(venv)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:  # such as a system's Python without its package for venv
            return refuse(f".venv cannot be made: {(done.stdout + done.stderr).strip()}")
    command = [str(python), __file__, *(word for word in arguments if word != "--venv")]
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            return process.wait()


def runs(python: Path) -> bool:
    """Whether an environment's Python and its pip work."""
    try:
        done = subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


def install(extras: list[str], torch_index: str, wheels: str = "") -> int:
    """Install the project with its extras into the environment of this Python."""
    known = declared_extras()
    if unknown := sorted(set(extras) - set(known)):
        return refuse(f"EXTRAS: unknown {', '.join(unknown)}; pyproject.toml has {', '.join(known)}")
    if wheels and not Path(wheels).is_dir():
        return refuse(f"--wheels {wheels}: no such folder; make bundle WHEELS=1 makes one in a bundle")
    ours = Path(sys.prefix).resolve() == VENV.resolve()
    if ours:
        remove_leftovers(Path(sysconfig.get_path("purelib")))
    before = installed()
    if ours:
        torch_index = remembered_index(VENV / "torch-index", torch_index, before)
    log = VENV / "setup.log" if ours else ROOT / "cache/setup.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text("")
    print(f"{announcement(ours, extras, before)} (log: {os.path.relpath(log)}) ", end="", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        lines = constraints_for(before, ours=ours, locked=not wheels)
        constraints.write_text("\n".join(lines) + "\n")
        commands = pip_commands(extras, torch_index, constraints, wheels)
        if "kaggle" in before and "kagglesdk" not in before:  # removed last, the old one takes its files
            commands.append([*commands[-1][:-2], "--force-reinstall", "--no-deps", "kagglesdk"])
        failed = any(run_logged(command, log) for command in commands)
    print("failed" if failed else "done", flush=True)
    if failed:
        print("".join(log.read_text(errors="replace").splitlines(keepends=True)[-_TAIL:]), end="")
    if not ours:
        print(changes(before, installed()))
    return int(failed)


def remembered_index(file: Path, torch_index: str, before: dict[str, str]) -> str:
    """The index of .venv's torch, kept in a file: a new lock must not replace a CPU build by a CUDA build."""
    remembered = file.read_text() if file.is_file() else ""
    if torch_index and torch_index != remembered and "torch" in before:
        print(f"torch {before['torch']} stays: TORCH_INDEX= needs a new environment; remove .venv first")
        return remembered
    if torch_index:
        file.write_text(torch_index)
    return torch_index or remembered


def declared_extras() -> list[str]:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return sorted(project["optional-dependencies"])


def installed() -> dict[str, str]:
    """Versions of the packages in this environment, by normalised name."""
    return {
        normalised(name): package.version
        for package in metadata.distributions()
        if (name := package.metadata["Name"])
    }


def normalised(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def constraints_for(before: dict[str, str], *, ours: bool, locked: bool = True) -> list[str]:
    """Lines for pip's option -c: in a foreign environment the lock counts for missing packages only.

    With `locked` False it does not count: a folder of wheels has the versions of the machine that made it.
    """
    lock = LOCK.read_text().split() if locked else []
    if ours:
        return lock
    lines = [line for line in lock if normalised(line.split("==")[0]) not in before]
    lines += [f"{name}=={before[name]}" for name in KEPT if name in before]
    present = [name for name in OPENCV if name in before]
    if present and "opencv-python-headless" not in before:
        lines = [line for line in lines if not line.startswith("opencv-python-headless==")]
        lines.append(f"opencv-python-headless=={before[present[0]]}")
    return lines


def pip_commands(extras: list[str], torch_index: str, constraints: Path, wheels: str = "") -> list[list[str]]:
    """The calls of pip: torch and torchvision from their own index, if there is one, then everything.

    From a folder of wheels the build backend comes first, since pip's isolated build needs an index.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-c", str(constraints)]
    project = f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)
    if wheels:
        pip += ["--no-index", "--find-links", str(Path(wheels).absolute())]
        return [[*pip, "setuptools>=70.1"], [*pip, "--no-build-isolation", "-e", project]]
    first = [[*pip, "--no-deps", "--index-url", torch_index, "torch", "torchvision"]] if torch_index else []
    return [*first, [*pip, "-e", project]]


def run_logged(command: list[str], log: Path) -> int:
    """Run a command into a log file, with a dot every few seconds; returns its exit status."""
    with log.open("a") as file, subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
        try:
            while True:
                try:
                    return process.wait(_DOT_SECONDS)
                except subprocess.TimeoutExpired:
                    print(".", end="", flush=True)
        except KeyboardInterrupt:
            process.terminate()
            raise


def remove_leftovers(site: Path) -> None:
    """Remove what an interrupted pip left behind, which a second pip would take for an installed package.

    pip writes RECORD last, and renames a package that it replaces to a name with a tilde.
    """
    for path in [*site.glob("~*"), *site.glob("*.dist-info")]:
        if path.is_dir() and (path.name.startswith("~") or not (path / "RECORD").is_file()):
            shutil.rmtree(path)


def announcement(ours: bool, extras: list[str], before: dict[str, str]) -> str:
    what = f" with {', '.join(extras)}" if extras else ""
    if not ours:
        return f"installing into {sys.prefix}{what}"
    if "distracted" in before:
        return f"updating .venv{what}"
    return f"setting up .venv{what}: a few minutes, once"


def changes(before: dict[str, str], after: dict[str, str]) -> str:
    """What was added, kept and changed in a foreign environment, in one or two lines."""
    kept = ", ".join(f"{name} {before[name]}" for name in KEPT if name in before)
    lines = [f"{len(after.keys() - before.keys())} packages added; kept as they are: {kept or 'none'}"]
    new = {name: version for name, version in after.items() if before.get(name, version) != version}
    if new:
        listed = ", ".join(f"{name} {before[name]} -> {version}" for name, version in new.items())
        lines.append(f"changed (restart a notebook that has imported one): {listed}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
