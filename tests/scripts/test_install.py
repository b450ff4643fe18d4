"""`make setup` with pip itself, a small project and packages made here, so that no network is needed."""

import base64
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

import install
from distracted.paths import CONFIGS

ROOT = CONFIGS.parent
BACKEND = """
import zipfile
from pathlib import Path

def get_requires_for_build_editable(settings=None):
    return []

def build_editable(folder, settings=None, metadata=None):
    import tomllib
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    lines = ["Metadata-Version: 2.1", "Name: distracted", "Version: 1"]
    lines += [f"Requires-Dist: {need}" for need in project["dependencies"]]
    for extra, needs in project["optional-dependencies"].items():
        lines += [f"Provides-Extra: {extra}"]
        lines += [f"Requires-Dist: {need}; extra == '{extra}'" for need in needs]
    name = "distracted-1-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder) / name, "w") as file:
        file.writestr("distracted.py", "")
        file.writestr("distracted-1.dist-info/METADATA", "\\n".join(lines) + "\\n")
        wheel = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        file.writestr("distracted-1.dist-info/WHEEL", wheel)
        file.writestr("distracted-1.dist-info/RECORD", "")
    return name
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "distracted"
version = "1"
dependencies = ["torch>=2.6", "torchvision>=0.21", "numpy>=2.0", "helper"]
[project.optional-dependencies]
dev = ["pytest"]
onnx = ["onnx"]
"""
LOCK = "helper==1.0\nnumpy==2.4\nonnx==1.0\npytest==9.0\ntorch==2.14\ntorchvision==0.29\n"


def write_wheel(folder: Path, name: str, version: str, *needs: str, module: str = "") -> None:
    """A package of one module, by default of its own name, that holds its version."""
    info = f"{name}-{version}.dist-info"
    metadata = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {need}" for need in needs)]
    files = {
        f"{module or name}.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": "\n".join(["Metadata-Version: 2.1", *metadata, ""]),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {
        path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        for path, text in files.items()
    }
    record = [f"{path},sha256={digests[path]},{len(text)}" for path, text in files.items()]
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        for path, text in files.items():
            file.writestr(path, text)
        file.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]))


class Project:
    """A clone with the project's own Makefile and scripts/install.py, and packages instead of an index."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.wheels, self.venv = folder, folder / "wheels", folder / ".venv"
        (folder / "scripts").mkdir()
        shutil.copy(ROOT / "Makefile", folder)
        shutil.copy(ROOT / "scripts/install.py", folder / "scripts")
        (folder / "backend.py").write_text(BACKEND)
        (folder / "pyproject.toml").write_text(PYPROJECT)
        (folder / "requirements.lock").write_text(LOCK)
        for name, version in [line.split("==") for line in LOCK.split()]:
            write_wheel(self.wheels, name, version, *(["torch==2.14"] if name == "torchvision" else []))
        write_wheel(self.wheels, "numpy", "2.1")
        write_wheel(self.wheels, "torch", "2.6")
        write_wheel(self.wheels, "torchvision", "0.21", "torch==2.6")
        others = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "MAKE"))}
        self.env = others | {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": self.wheels.as_uri(),
            "PYTHON": sys.executable,
        }
        self.env.pop("PYTHONPATH", None)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = ["make", "--no-print-directory", *arguments]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def make(self, *arguments: str) -> str:
        """The output of a make that succeeds."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        return output

    def change(self) -> None:
        """As if pyproject.toml had changed; set-up took place before, by more than the clock's step."""
        os.utime(self.venv / ".stamp", (0, 0))

    def versions(self, venv: Path | None = None) -> dict[str, str]:
        code = "from importlib.metadata import *; print(*(f'{d.name}=={d.version}' for d in distributions()))"
        command = [(venv or self.venv) / "bin/python", "-c", code]
        pairs = dict(
            pair.split("==") for pair in subprocess.check_output(command, env=self.env, text=True).split()
        )
        return {name: version for name, version in pairs.items() if name not in ("pip", "setuptools")}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    if shutil.which("make") is None:
        pytest.skip("needs make")
    folder = tmp_path / "a clone"
    folder.mkdir()
    return Project(folder)


@pytest.fixture
def host(project: Project, tmp_path: Path) -> Path:
    """The environment of a hosted notebook: an older torch, its torchvision and an older numpy."""
    folder = tmp_path / "host"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip_install(project, folder, "torch==2.6", "torchvision==0.21", "numpy==2.1")
    return folder


def pip_install(project: Project, venv: Path, *packages: str | Path) -> None:
    command = [venv / "bin/python", "-m", "pip", "install", "-q", *packages]
    subprocess.run(command, env=project.env, check=True)


def modification_time(project: Project) -> int:
    (module,) = project.venv.glob("lib/*/site-packages/torch.py")
    return module.stat().st_ctime_ns


USERS = {"distracted": "1", "helper": "1.0", "numpy": "2.4", "torch": "2.14", "torchvision": "0.29"}


@pytest.mark.slow
class TestOwnEnvironment:
    def test_users_and_developers(self, project: Project) -> None:
        """Developers' packages are added to the same environment, and torch is not installed again."""
        assert "setting up .venv: a few minutes, once (log: .venv/setup.log)" in project.make("setup")
        assert project.versions() == USERS
        before = modification_time(project)
        assert project.make("setup") == ".venv is ready\n"
        assert "updating .venv with dev" in project.make("setup-dev")
        assert project.versions() == USERS | {"pytest": "9.0"}
        assert project.make("setup-dev") == ".venv is ready\n"
        assert modification_time(project) == before
        project.make("setup", "EXTRAS=onnx")
        assert project.versions() == USERS | {"pytest": "9.0", "onnx": "1.0"}

    def test_an_environment_of_the_version_before(self, project: Project) -> None:
        """It has one stamp and everything for developers."""
        subprocess.run([sys.executable, "-m", "venv", project.venv], check=True)
        lock = project.folder / "requirements.lock"
        pip_install(project, project.venv, "-e", f"{project.folder}[dev]", "-c", lock)
        (project.venv / ".stamp").touch()
        before = modification_time(project)
        assert project.make("setup") == ".venv is ready\n"
        project.make("setup-dev")
        assert project.versions() == USERS | {"pytest": "9.0"}
        assert modification_time(project) == before

    def test_a_failure_shows_the_end_of_the_log_and_the_next_run_repairs(self, project: Project) -> None:
        missing = project.wheels / "helper-1.0-py3-none-any.whl"
        missing.rename(missing.with_suffix(".away"))
        process = project.start("setup")
        output, _ = process.communicate(timeout=120)
        assert process.returncode != 0
        assert "failed\n" in output and "helper==1.0" in output
        missing.with_suffix(".away").rename(missing)
        project.make("setup")
        assert project.versions() == USERS

    def test_leftovers_of_a_killed_pip_are_installed_again(self, project: Project) -> None:
        """pip takes a package for installed as soon as METADATA is there, and writes RECORD last."""
        project.make("setup")
        (site,) = project.venv.glob("lib/*/site-packages")
        (site / "helper-1.0.dist-info/RECORD").unlink()
        (site / "helper.py").unlink()
        (site / "~orch").mkdir()
        project.change()
        project.make("setup")
        assert (site / "helper.py").is_file() and not (site / "~orch").exists()
        assert project.versions() == USERS

    def test_an_interruption_is_repaired(self, project: Project) -> None:
        """Ctrl-C reaches make, the script and pip; half an environment is made again."""
        process = project.start("setup")
        deadline = time.monotonic() + 60
        while not (project.venv / "bin").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode != 0 and "Traceback" not in output
        assert not (project.venv / ".stamp").exists()
        project.make("setup")
        assert project.versions() == USERS

    def test_torch_from_an_index_of_its_own(self, project: Project, tmp_path: Path) -> None:
        """As the CPU route does; a new lock keeps the index, and another index does not replace torch."""
        index = tmp_path / "cpu index"
        write_wheel(index / "torch", "torch", "2.14+cpu")
        write_wheel(index / "torchvision", "torchvision", "0.29+cpu", "torch==2.14+cpu")
        for folder in index.iterdir():
            links = [f"<a href='{wheel.name}'>{wheel.name}</a>" for wheel in folder.iterdir()]
            (folder / "index.html").write_text("".join(links))
        del project.env["PIP_NO_INDEX"]
        project.make("setup", f"TORCH_INDEX={index.as_uri()}")
        cpu = USERS | {"torch": "2.14+cpu", "torchvision": "0.29+cpu"}
        assert project.versions() == cpu
        project.change()
        project.make("setup")
        assert project.versions() == cpu
        output = project.make("setup", "TORCH_INDEX=file:///elsewhere")
        assert "torch 2.14+cpu stays: TORCH_INDEX= needs a new environment; remove .venv first" in output
        assert project.versions() == cpu

    def test_an_unknown_extra(self, project: Project) -> None:
        process = project.start("setup", "EXTRAS=nope")
        output, _ = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "EXTRAS: unknown nope; pyproject.toml has dev, onnx" in output


@pytest.mark.slow
class TestForeignEnvironment:
    def test_torch_stays(self, project: Project, host: Path) -> None:
        output = project.make("setup", f"VENV={host}", "EXTRAS=onnx")
        kept = {"torch": "2.6", "torchvision": "0.21", "numpy": "2.1"}
        assert project.versions(host) == USERS | kept | {"onnx": "1.0"}
        assert "kept as they are: torch 2.6, torchvision 0.21, numpy 2.1" in output
        assert not project.venv.exists()

    def test_without_a_network_from_a_folder_of_wheels(self, project: Project, host: Path) -> None:
        """Its versions are those of the machine that made the bundle, whatever the lock says."""
        folder = project.folder / "my bundle/wheels"
        write_wheel(folder, "helper", "0.9")
        write_wheel(folder, "setuptools", "80.0")
        write_wheel(folder, "numpy", "2.4")
        environment = {"PATH": "", "PIP_CONFIG_FILE": os.devnull}
        command = [host / "bin/python", project.folder / "scripts/install.py", "--wheels", folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        kept = {"torch": "2.6", "torchvision": "0.21", "numpy": "2.1"}
        assert project.versions(host) == USERS | kept | {"helper": "0.9"}
        done = subprocess.run([*command[:-1], folder / "no"], env=environment, capture_output=True, text=True)
        assert done.returncode == 1 and "no such folder; make bundle WHEELS=1" in done.stderr

    def test_a_torch_that_is_too_old_is_refused(self, project: Project, host: Path) -> None:
        text = (project.folder / "pyproject.toml").read_text()
        (project.folder / "pyproject.toml").write_text(text.replace("torch>=2.6", "torch>=2.7"))
        before = project.versions(host)
        process = project.start("setup", f"VENV={host}")
        output, _ = process.communicate(timeout=120)
        assert process.returncode != 0
        assert "distracted 1 depends on torch>=2.7" in output
        assert project.versions(host) == before

    def test_torch_without_torchvision_is_refused(self, project: Project, host: Path) -> None:
        """pip would take the newest torchvision, and with it another torch."""
        command = [host / "bin/python", "-m", "pip", "uninstall", "-q", "-y", "torchvision"]
        subprocess.run(command, check=True)
        process = project.start("setup", f"VENV={host}")
        output, _ = process.communicate(timeout=120)
        assert process.returncode != 0 and "torchvision 0.29 depends on torch==2.14" in output
        assert project.versions(host) == {"torch": "2.6", "numpy": "2.1"}

    def test_an_old_kaggle_does_not_take_the_files_of_the_new_one_away(
        self, project: Project, host: Path
    ) -> None:
        """kaggle 1.7 holds kagglesdk, later a package of its own; pip removes the old files last."""
        write_wheel(project.wheels, "kaggle", "1.7", module="kagglesdk")
        write_wheel(project.wheels, "kaggle", "2.2", "kagglesdk")
        write_wheel(project.wheels, "kagglesdk", "0.1")
        pip_install(project, host, "kaggle==1.7")
        text = (project.folder / "pyproject.toml").read_text()
        (project.folder / "pyproject.toml").write_text(text.replace('"helper"', '"helper", "kaggle>=2.1"'))
        assert "changed (restart a notebook that has imported one): kaggle 1.7 -> 2.2" in project.make(
            "setup", f"VENV={host}"
        )
        (module,) = host.glob("lib/*/site-packages/kagglesdk.py")
        assert "0.1" in module.read_text()


def test_constraints_of_a_foreign_environment() -> None:
    before = {"torch": "2.6.0+cu124", "numpy": "2.0.2", "pandas": "2.2.2", "opencv-python": "4.12.0.88"}
    lines = install.constraints_for(before, ours=False)
    assert {"torch==2.6.0+cu124", "numpy==2.0.2", "opencv-python-headless==4.12.0.88"} <= set(lines)
    assert not [line for line in lines if line.startswith("pandas==")]
    assert [line for line in lines if line.startswith("pydantic_core==")]


def test_the_own_environment_follows_the_lock() -> None:
    lines = install.constraints_for({"torch": "2.6.0"}, ours=True)
    assert lines == (ROOT / "requirements.lock").read_text().split()


def test_packages_that_are_kept_are_required_and_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {need.split(">=")[0] for need in project["dependencies"]}
    assert required >= set(install.KEPT)
    locked = {install.normalised(line.split("==")[0]) for line in install.LOCK.read_text().split()}
    assert locked >= set(install.KEPT)


def test_changed_packages_are_listed() -> None:
    before = {"torch": "2.6", "protobuf": "4.25"}
    text = install.changes(before, {"torch": "2.6", "protobuf": "7.36", "timm": "1.0"})
    assert text.splitlines() == [
        "1 packages added; kept as they are: torch 2.6",
        "changed (restart a notebook that has imported one): protobuf 4.25 -> 7.36",
    ]
