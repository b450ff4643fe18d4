"""The packages that the project needs besides torch, as wheels for a machine without a network."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from distracted.errors import BundleError
from distracted.progress import Progress, silent

#: The host keeps its own, which fit its driver, and what they bring along.
HOST = frozenset({"torch", "torchvision"})
#: Installs the project; Python 3.12 and later bring none along.
_BACKEND = "setuptools>=70.1"  # the first that needs no package wheel
_CHUNK = 10  # packages for each call of pip


def needed_packages(root: str = "distracted") -> dict[str, str]:
    """Name and installed version of each package that another needs, from `root` on, without torch's own."""
    found: dict[str, str] = {}
    queue = [(root, frozenset[str]())]
    while queue:
        name, extras = queue.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:
            if name == root:
                raise BundleError(f"WHEELS=1: {root} is not installed here; make setup installs it") from None
            continue  # needed on other systems only
        key = _normal(name)
        if key in found and not extras:
            continue
        found[key] = package.version
        for text in package.requires or ():
            requirement = Requirement(text)
            if _normal(requirement.name) in HOST or not _applies(requirement, extras):
                continue
            if _normal(requirement.name) not in found:
                queue.append((requirement.name, frozenset(requirement.extras)))
    del found[_normal(root)]
    return dict(sorted(found.items()))


def collect_wheels(folder: Path, project: Path, *, progress: Progress = silent) -> dict[str, Path]:
    """Fetch the wheels that the folder lacks, by pip; returns them by their path in the bundle.

    Raises:
        BundleError: pip fails; its last lines are shown.
    """
    packages = [*(f"{name}=={version}" for name, version in needed_packages().items()), _BACKEND]
    with progress("fetching wheels", total=len(packages), unit="packages") as step:
        for start in range(0, len(packages), _CHUNK):
            some = packages[start : start + _CHUNK]
            command = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps"]
            command += ["--wheel-dir", str(folder), "--find-links", str(folder), *some]
            done = subprocess.run(command, capture_output=True, text=True, cwd=project)
            if done.returncode:
                last = " ".join((done.stderr or done.stdout).strip().splitlines()[-2:])
                raise BundleError(f"WHEELS=1: pip failed ({last}); it needs a package index, once")
            step(len(some))
    return {f"wheels/{path.name}": path for path in sorted(folder.glob("*.whl"))}


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras})


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
