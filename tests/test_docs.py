"""Pages, pictures, commands and variables that README, docs and code mention exist."""

import json
import re
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

import config_docs
from distracted.paths import CONFIGS
from distracted.schema import RunConfig
from distracted.training.losses import LOSSES
from distracted.training.optim import OPTIMIZERS

ROOT = CONFIGS.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, flags=re.MULTILINE))
COMMAND = re.compile(r"(?:^|`)make ([a-z-]+)((?:[^`#\n]|\\\n)*)", flags=re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_of_a_page_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text())
    assert [name for name, _ in targets if name and not (page.parent / name).is_file()] == []
    anchors = [((page.parent / name) if name else page, anchor) for name, anchor in targets if anchor]
    assert [(path.name, anchor) for path, anchor in anchors if anchor not in headings(path)] == []


def headings(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_pages_that_code_and_configs_mention_exist() -> None:
    sources = [
        path for folder in ("src", "scripts", "bench", "configs") for path in (ROOT / folder).rglob("*")
    ]
    pointers = {
        (name_of(path), pointer)
        for path in [*sources, ROOT / "Makefile"]
        if path.suffix in (".py", ".yaml", "") and path.is_file()
        for pointer in re.findall(r"\b(?:docs/\w+\.md|bench/\w+\.py)", path.read_text())
    }
    assert {pointer for _, pointer in pointers} >= {"docs/steps.md", "docs/expected_score.md"}
    assert {(source, pointer) for source, pointer in pointers if not (ROOT / pointer).is_file()} == set()


def test_train_yaml_holds_every_default() -> None:
    named = set(re.findall(r"(\w+):", (CONFIGS / "train.yaml").read_text()))
    resolved_later = {"leaky", "predictions", "weights_sha256", "drop_list", "drops"}
    of_earlier_versions = {"inference"}
    assert optional_settings(RunConfig) - resolved_later - of_earlier_versions - named == set()


def optional_settings(section: type[BaseModel]) -> set[str]:
    """Names of the settings with a default in a section and in all sections within it."""
    names = {field.alias or name for name, field in section.model_fields.items() if not field.is_required()}
    inner = [part for field in section.model_fields.values() for part in sections_in(field.annotation)]
    return names.union(*map(optional_settings, inner))


def sections_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_in(part)]


def test_the_config_page_is_generated_from_the_schema() -> None:
    assert config_docs.PAGE.read_text() == config_docs.page(), "make docs writes docs/config.md"
    assert "|  | " not in config_docs.page(), "a key without a meaning"
    for name in (*LOSSES, *OPTIMIZERS):
        assert f"`{name}`" in config_docs.page()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_of_a_page_are_make_targets_that_take_their_variables(page: Path) -> None:
    text = page.read_text()
    for target, rest in COMMAND.findall(text):
        assert target in TARGETS, f"make {target}"
        (recipe,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
        outside_quotes = re.sub(r'"[^"]*"', "", rest)
        for variable in re.findall(r"\b([A-Z_]+)=", outside_quotes):
            assert takes(recipe, variable), f"make {target} {variable}="


def takes(recipe: str, variable: str) -> bool:
    """Whether a recipe reads a variable, directly or through another Makefile variable."""
    if variable == "VENV":
        return True
    if re.search(rf"[,)]{variable}[,)]", recipe) or (variable == "SET" and "$$SETTINGS" in recipe):
        return True
    named = [
        re.findall(rf"^{name} = (.*)$", MAKEFILE, flags=re.MULTILINE)
        for name in re.findall(r"\$\((\w+)\)", recipe)
    ]
    return any(takes(value, variable) for values in named for value in values)


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages - set(re.findall(r"\]\((\w+\.md)\)", index)) == set()


def test_the_readme_of_bench_lists_every_script() -> None:
    listed = re.findall(r"^\| `(\w+\.py)` \|", (ROOT / "bench/README.md").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "bench").glob("*.py"))


def test_messages_on_the_troubleshooting_page_are_in_the_code() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text()
    cells = re.findall(r"^\| (`.*?) \|", page, flags=re.MULTILINE)
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "scripts").glob("*.py"), ROOT / "Makefile"]
    code = re.sub(r'"\s*f?"', "", "".join(path.read_text() for path in files))  # literals in several parts
    pieces = {piece.strip(" ();,") for message in messages for piece in message.split("...")} - {"", "Killed"}
    assert len(pieces) > 30
    assert {piece for piece in pieces if piece not in code} == set()


def test_cluster_files_match_the_schemas_of_their_tools() -> None:
    folder = ROOT / "docs/cluster"
    kinds = [part["kind"] for part in yaml.safe_load_all((folder / "kuberay.yaml").read_text())]
    assert kinds == ["PersistentVolumeClaim", "RayCluster", "Deployment"]
    ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((folder / "aws.yaml").read_text()), schema)
