"""Imports between packages point one way, and side effects stay in the scripts."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from distracted.config import load_config, load_data_config
from distracted.paths import CONFIGS

ROOT = CONFIGS.parent
LIBRARY = ROOT / "src/distracted"
PACKAGES = (
    "sample",
    "data",
    "models",
    "inference",
    "training",
    "predictions",
    "postprocess",
    "ensemble",
    "submission",
    "audit",
    "report",
    "tracking",
    "jobs",
    "compete",
    "bundle",
)
LEAVES = (
    "errors",
    "files",
    "paths",
    "metrics",
    "schema",
    "config",
    "progress",
    "stopping",
    "locks",
    "cores",
    "imports",
    "headline",
    "kaggle_credentials",
    "kaggle_answers",
    "kaggle_requests",
    "kaggle_client",
)


@dataclass(frozen=True)
class Import:
    """One import: the dotted module, and the name imported from it ("" for the whole module)."""

    module: str
    name: str
    line: int


@dataclass(frozen=True)
class Source:
    """A parsed file; `module` is its dotted name, such as distracted.data.folds, or a script's stem."""

    path: Path
    module: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """The first part below `distracted`: a package or a leaf; "" for the package itself."""
        return package_of(self.module)

    def imports(self) -> Iterator[Import]:
        """Every import, also in functions; `from package import module` counts as an import of the module."""
        package = self.module if self.path.stem == "__init__" else self.module.rpartition(".")[0]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(alias.name, "", node.lineno)
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                if node.level:
                    above = package.split(".")[: len(package.split(".")) - node.level + 1]
                    module = ".".join([*above, module] if module else above)
                for alias in node.names:
                    if is_module(f"{module}.{alias.name}"):
                        yield Import(f"{module}.{alias.name}", "", node.lineno)
                    else:
                        yield Import(module, alias.name, node.lineno)

    def own_imports(self) -> Iterator[Import]:
        return (item for item in self.imports() if item.module.split(".")[0] == "distracted")

    def at(self, line: int) -> str:
        return f"{self.path.relative_to(ROOT)}:{line}"


def is_module(dotted: str) -> bool:
    path = ROOT / "src" / dotted.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def package_of(module: str) -> str:
    return [*module.split("."), ""][1]


def read(path: Path, module: str) -> Source:
    return Source(path, module, ast.parse(path.read_text(encoding="utf-8"), str(path)))


def dotted_name(path: Path) -> str:
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = [read(path, dotted_name(path)) for path in sorted(LIBRARY.rglob("*.py"))]
SCRIPTS = [read(path, path.stem) for path in sorted((ROOT / "scripts").glob("*.py"))]


def dotted(node: ast.expr) -> str:
    """The text of an expression of names and dots, such as `os.environ`; "" for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def test_every_module_is_in_a_package_or_a_leaf() -> None:
    packages = {source.package for source in SOURCES} - {""}
    assert packages <= {*PACKAGES, *LEAVES}
    assert {path.stem for path in LIBRARY.glob("*.py")} - {"__init__"} == set(LEAVES) - {"schema", "config"}
    assert len(SOURCES) > 30  # the parser found the library


def test_packages_import_only_earlier_packages_and_leaves() -> None:
    wrong = []
    for source in SOURCES:
        if source.package in LEAVES:
            allowed: set[str] = set(LEAVES)
        elif source.package in PACKAGES:
            allowed = {*LEAVES, *PACKAGES[: PACKAGES.index(source.package) + 1]}
        else:
            allowed = set()
        wrong += [
            f"{source.at(item.line)} imports {item.module}"
            for item in source.own_imports()
            if package_of(item.module) not in allowed
        ]
    assert not wrong


def test_private_names_stay_in_their_package() -> None:
    wrong = []
    for source in [*SOURCES, *SCRIPTS]:
        for item in source.own_imports():
            path = item.module.split(".")
            private = next((n for n, part in enumerate(path) if part.startswith("_")), None)
            package = ".".join(path[:private])
            if private is not None and not f"{source.module}.".startswith(f"{package}."):
                wrong.append(f"{source.at(item.line)} imports {item.module}, private to {package}")
            if item.name.startswith("_") and (source in SCRIPTS or source.package != package_of(item.module)):
                wrong.append(f"{source.at(item.line)} imports {item.name} of {item.module}")
    assert not wrong


def test_scripts_import_only_public_names_of_each_other() -> None:
    scripts = {source.module for source in SCRIPTS}
    private = [
        f"{source.at(item.line)} imports {item.name}"
        for source in SCRIPTS
        for item in source.imports()
        if item.module in scripts and item.name.startswith("_")
    ]
    assert not private


def test_no_module_reaches_through_an_imported_one_for_a_private_name() -> None:
    wrong = []
    for source in [*SOURCES, *SCRIPTS]:
        ours = {name.module for name in SCRIPTS} | {"distracted"}
        modules = {
            item.module.rpartition(".")[2]
            for item in source.imports()
            if not item.name and item.module.split(".")[0] in ours
        }
        for node in ast.walk(source.tree):
            if (
                isinstance(node, ast.Attribute)
                and node.attr.startswith("_")
                and dotted(node.value) in modules
            ):
                wrong.append(f"{source.at(node.lineno)} takes {dotted(node)}")
    assert not wrong


def test_the_library_parses_no_arguments() -> None:
    parsers = {"argparse", "typer", "click", "optparse", "getopt", "fire"}
    wrong = [
        f"{source.at(item.line)} imports {item.module}"
        for source in SOURCES
        for item in source.imports()
        if item.module.split(".")[0] in parsers
    ]
    wrong += [
        f"{source.at(node.lineno)} reads sys.argv"
        for source in SOURCES
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and dotted(node) == "sys.argv"
    ]
    assert not wrong


def test_the_library_prints_nothing() -> None:
    wrong = [
        f"{source.at(node.lineno)} calls {dotted(node.func)}"
        for source in SOURCES
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call)
        and dotted(node.func) in {"print", "sys.stdout.write", "sys.stderr.write"}
    ]
    assert not wrong


def environment_reads(source: Source) -> list[str]:
    """All uses of the environment in a module, such as `os.environ.setdefault` or `os.getenv`."""
    names = [dotted(node) for node in ast.walk(source.tree) if isinstance(node, ast.Attribute)]
    defaults = names.count("os.environ.setdefault")
    uses = ["os.environ.setdefault"] * defaults + ["os.environ"] * (names.count("os.environ") - defaults)
    uses += [name for name in names if name in {"os.getenv", "os.putenv", "os.environb"}]
    taken = {item.name for item in source.imports() if item.module == "os"}
    return uses + sorted(taken & {"environ", "getenv", "environb"})


def test_the_library_reads_no_environment() -> None:
    """Except switches that packages read when imported, W&B's, Kaggle's and torchrun's variables."""
    reads = {source.module: uses for source in SOURCES if (uses := environment_reads(source))}
    switches = (
        "distracted.data.transforms",
        "distracted.inference",
        "distracted.postprocess.export",
        "distracted.tracking",
    )
    torchrun = reads.pop("distracted.training.distributed")
    kaggle = reads.pop("distracted.kaggle_credentials")
    assert set(torchrun) == set(kaggle) == {"os.environ"}
    wandb = {"distracted.tracking.online": ["os.environ"]}
    assert reads == wandb | {module: ["os.environ.setdefault"] for module in switches}


MODELS = sorted(path.stem for path in (CONFIGS / "models").glob("*.yaml"))
RECIPES = sorted(path.stem for path in (CONFIGS / "recipes").glob("*.yaml"))
DATA = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml"))


@pytest.mark.parametrize("model", MODELS)
def test_every_model_loads(model: str) -> None:
    config = load_config(model=model, data="sample")
    whens = {phase.when for phase in config.phases.values()}
    assert whens & {"random", "always"}  # weights can be missing
    assert config.model.weights == "none" or whens & {"pretrained", "always"}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("model", ["vgg16", "dinov3_base", "cnn"])
def test_every_recipe_loads_with_models_of_different_kinds(model: str, recipe: str) -> None:
    config = load_config(model=model, data="sample", overrides=[f"recipe={recipe}"])
    assert config.recipe == recipe
    whens = {phase.when for phase in config.phases.values()}
    assert "random" in whens
    assert recipe == "scratch" or "pretrained" in whens


@pytest.mark.parametrize("data", DATA)
def test_every_data_config_loads(data: str) -> None:
    config = load_config(model="resnet50", data=data)
    assert config.data == load_data_config(data)
    assert config.data.name == data


def test_every_yaml_file_is_loaded_by_a_test() -> None:
    """A file that nothing loads would go stale."""
    files = {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.y*ml")}
    loaded = {"train.yaml", "sweep.yaml"}
    loaded |= {f"models/{name}.yaml" for name in MODELS} | {f"recipes/{name}.yaml" for name in RECIPES}
    assert files - loaded == {f"data/{name}.yaml" for name in DATA}
    for path in CONFIGS.glob("*.yaml"):
        assert OmegaConf.load(path)
