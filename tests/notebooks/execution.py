"""Executes a notebook as a hosted one runs: without network, git, make and HOME, its input read-only."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from distracted.paths import CONFIGS

NOTEBOOKS = CONFIGS.parent / "notebooks"
_SECONDS = 900  # for one cell
#: The build backend is taken from the environment; pip reads 0 as "no isolation".
_OFFLINE_PIP = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
#: In namespaces of its own: no network, and the input mounted read-only.
_SHUT_IN = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


def make_host(folder: Path) -> Path:
    """The Python of a new environment that sees this environment's packages, but not this project."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    seen = [path for path in sys.path if path.endswith("site-packages")]
    (site / "host.pth").write_text("\n".join(seen) + "\n")
    return folder / "bin/python"


@cache
def can_shut_in() -> bool:
    """Whether this user may make namespaces."""
    command = ["unshare", "--net", "--mount", "sh", "-c", _SHUT_IN, tempfile.gettempdir(), "true"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def execute(
    name: str, python: Path, work: Path, given: Path, parameters: Mapping[str, object]
) -> nbformat.NotebookNode:
    """Execute a notebook in a folder with other parameters; returns it with its outputs.

    Args:
        python: The interpreter that runs the kernel.
        work: Where it starts, and what it may fill.
        given: Its input.
    """
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    (place,) = [n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    values = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(values))
    work.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        tools, file = Path(scratch, "bin"), Path(scratch, "notebook.ipynb")
        tools.mkdir()
        nbformat.write(notebook, file)
        environment = {"PATH": str(tools), "OMP_NUM_THREADS": "1"} | _OFFLINE_PIP
        job = {"kernel": _kernel(python, given), "work": str(work), "environment": environment}
        command = [sys.executable, __file__, scratch, json.dumps(job)]  # Jupyter's client leaves sockets open
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return nbformat.read(file, as_version=4)


def _execute_in_place(scratch: Path, *, kernel: list[str], work: str, environment: dict[str, str]) -> None:
    """Execute notebook.ipynb; the kernel is reached by sockets in the folder, also from other namespaces."""
    notebook = nbformat.read(scratch / "notebook.ipynb", as_version=4)
    manager = AsyncKernelManager(transport="ipc", connection_file=f"{scratch}/kernel.json")
    manager._kernel_spec = KernelSpec(argv=kernel, display_name="host", language="python")
    client = NotebookClient(notebook, km=manager, resources={"metadata": {"path": work}})
    client.timeout = client.startup_timeout = _SECONDS
    client.execute(env=environment)
    nbformat.write(notebook, scratch / "notebook.ipynb")


def _kernel(python: Path, given: Path) -> list[str]:
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    if not can_shut_in():
        return command
    unshare, shell = shutil.which("unshare"), shutil.which("sh")
    assert unshare and shell
    path = f"PATH={os.environ['PATH']}; "
    return [unshare, "--net", "--mount", shell, "-c", f"{path}{_SHUT_IN}", str(given), *command]


def printed(notebook: nbformat.NotebookNode) -> str:
    """Everything that the cells printed."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


if __name__ == "__main__":
    _execute_in_place(Path(sys.argv[1]), **json.loads(sys.argv[2]))
