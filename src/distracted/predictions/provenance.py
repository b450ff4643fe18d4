"""The code that made a file: the git commit and the versions of the packages that matter."""

import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from distracted.paths import CONFIGS

_VISION = ("torch", "torchvision", "timm", "albumentations", "opencv-python-headless")
_PACKAGES = (*_VISION, "numpy", "scikit-learn", "pandas", "onnxruntime")


@cache
def git_commit() -> str | None:
    """The project's commit, with "+changes" if files differ from it; None outside a git checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(CONFIGS.parent), *arguments]
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True, timeout=10).strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def package_versions() -> dict[str, str]:
    """Installed versions by package name."""
    versions = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
