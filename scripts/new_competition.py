"""make new-competition: look at a folder in any layout, and write its file in configs/data/."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from omegaconf import OmegaConf

import console
from distracted.errors import ConfigError
from distracted.paths import CONFIGS
from distracted.schema import check_name, safe_name

if TYPE_CHECKING:
    from distracted.data.new_data import NewData

_MOST_CLASSES = 12


def main(
    folder: Annotated[str, typer.Option(help="The folder with images and lists.")],
    name: Annotated[str, typer.Option(help="Name of the data set; by default the folder's.")] = "",
    set: Annotated[
        str, typer.Option("--set", help="Answers, e.g. 'data.metric=auc data.columns.group=patient_id'.")
    ] = "",
    force: console.Force = False,
    configs: Annotated[Path, typer.Option(help="The folder of configs.", hidden=True)] = CONFIGS,
) -> None:
    """Write configs/data/<name>.yaml for a folder; ask what the folder cannot say, on a terminal."""
    from distracted.data.folder_contents import FolderContents
    from distracted.data.new_data import understand, write_data_config

    if not folder.strip():
        raise ConfigError("FOLDER= is missing: the folder with images and lists")
    place = Path(folder).expanduser().absolute()
    name = check_name(name or safe_name(place.resolve().name), "NAME=")
    path = configs / "data" / f"{name}.yaml"
    if path.exists() and not force:
        raise ConfigError(f"{path}: is there already; FORCE=1 replaces it, NAME= writes another")
    answers, contents = parse_answers(set), FolderContents.of(place)
    new = understand(contents, name, answers)
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    while on_terminal and (questions := [key for key in new.assumed if key not in answers]):
        answers[questions[0]] = _ask(new, questions[0])
        new = understand(contents, name, answers)
    here = Path.cwd()  # the workspace
    shown = place.relative_to(here) if place.is_relative_to(here) else place
    write_data_config(path, new, folder=str(shown), force=force)
    _show(new, path, name)


def parse_answers(text: str) -> dict[str, Any]:
    """SET="data.metric=auc ..." as values by their key within the data section."""
    answers = {}
    for item in console.overrides(text):
        key, mark, _ = item.partition("=")
        if not mark or not key.startswith("data."):
            raise ConfigError(f"SET: expected data.<key>=<value> such as data.metric=accuracy, got {item!r}")
        try:
            value = OmegaConf.select(OmegaConf.from_dotlist([item]), key)
        except Exception as error:  # the parser fails in a dozen ways
            raise ConfigError(f"SET: {item!r} cannot be read: {error}") from error
        answers[key.removeprefix("data.")] = (
            OmegaConf.to_object(value) if OmegaConf.is_config(value) else value
        )
    return answers


def _ask(new: "NewData", key: str) -> Any:
    """The answer that is typed for an assumed key; Enter takes the assumption."""
    assumed = _value(new, key)
    shown = "null" if assumed is None else str(assumed)
    typed = typer.prompt(f"{key}: {new.assumed[key]}", default=shown)
    if typed == shown:
        return assumed
    return parse_answers(f"data.{key}={shlex.quote(typed)}")[key]


def _value(new: "NewData", key: str) -> Any:
    value: Any = new.settings
    for part in key.split("."):
        value = value[part]
    return value


def _show(new: "NewData", path: Path, name: str) -> None:
    """What was understood, what was assumed, and what comes next."""
    from distracted.data.subjects import spelled_alike
    from distracted.data.walk import by_kind

    competition, config = new.competition, new.competition.config
    counts, classes = competition.train["classname"].value_counts(), competition.classes
    shown = ", ".join(f"{one} {counts[one]}" for one in classes[:_MOST_CLASSES])
    more = f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else ""
    subjects = f"{competition.num_subjects} subjects" if config.has_subjects else "no subjects"
    rows = [
        ["training images", f"{len(competition.train):,}, {subjects}"],
        ["classes", f"{len(classes)}: {shown}{more}"],
        ["test images", f"{len(competition.test):,}"],
        ["submission", f"{config.submission}: {','.join(competition.submission.columns)}"],
        ["metric", competition.metric.title],
    ]
    if num_unlisted := sum(map(len, competition.unlisted.values())):
        rows.append(["not in any list", f"{num_unlisted:,} images, which are not used"])
    rows += [["left out", kind] for kind in by_kind(competition.left_out, 1)]
    console.table(f"{config.folder}", ["", "understood"], rows)
    for key, question in new.assumed.items():
        value = _value(new, key)
        answer = f'SET="data.{key}=..." FORCE=1 says another'
        console.warn(f"assumed data.{key}={'null' if value is None else value}: {question}; {answer}")
    label = config.columns.label
    if empty := [name for name in label if name not in counts.index] if isinstance(label, tuple) else []:
        console.warn(f"no image is of class {' or '.join(empty)}, which is left out")
    for names in spelled_alike(classes):
        console.warn(f"classes {' and '.join(map(repr, names))} differ only in spelling: are they one?")
    if competition.submission.doubt:
        console.warn(competition.submission.doubt)
    console.say(
        f"{path}: written\nnext: make folds DATA={name}, then make cv MODEL=efficientnet_lite0 DATA={name} "
        "(docs/your_competition.md)"
    )


if __name__ == "__main__":
    console.run(main)
