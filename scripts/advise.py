"""make advise: which backbone, recipe and settings a data set deserves, by measurement."""

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

import console
from distracted.config import load_config
from distracted.data.audit import check_split
from distracted.errors import ConfigError
from distracted.imports import importing

if TYPE_CHECKING:
    from distracted.training.advise import Advice


def main(
    models: Annotated[
        str, typer.Option(help="Names in configs/models, separated by spaces.")
    ] = "efficientnet_lite0 resnet50 convnextv2_tiny dinov3_base",
    data: console.Data = "state_farm",
    set: console.Set = "",
    root: console.Root = console.HERE,
) -> None:
    """Measure how far frozen features carry on a data set; say which recipe and settings follow."""
    with importing():
        from distracted.training.advise import advise
        from distracted.training.resolve import resolve

    names = models.split()
    if not names:
        raise ConfigError("MODELS= is empty: names in configs/models, separated by spaces")
    overrides = console.overrides(set)
    place = console.place(data, root, console.runtime_in(set))
    any_weights = ["model.weights=auto_or_none", *overrides]  # a backbone without weights is left out
    configs = {
        model: load_config(model=model, data=place, overrides=any_weights, root=root) for model in names
    }
    first = configs[names[0]]
    store = console.open_store(first.data, root, first.runtime, num_folds=first.training.num_folds)
    check_split(store.competition, store.folds)
    num_folds = store.folds.num_folds
    advice = advise(
        {model: resolve(config, num_folds=num_folds) for model, config in configs.items()},
        competition=store.competition,
        folds=store.folds,
        cache=store.workspace.cache(store.competition.name),
        progress=console.progress,
    )
    by_subject = first.data.has_subjects
    _show(advice, "subjects" if by_subject else "images")
    name = f"{advice.model}_{advice.case.recipe}"
    settings = shlex.join([*overrides, *advice.overrides])
    given = console.data_variable(data)
    console.say(f"make cv MODEL={advice.model}{given} NAME={name} SET={shlex.quote(settings)}")
    for views in advice.views:
        console.say(f"make tta RUN={name}{given} VIEWS={views}")


def _show(advice: "Advice", unseen: str) -> None:
    size, best = advice.size, advice.measured[0]
    rows = []
    for one in advice.measured:
        above = "best" if one is best else f"{one.above:.4f} ({one.error:.4f})"
        backbone = [one.model, one.origin, str(one.image_size), str(one.num_features)]
        scores = [f"{one.log_loss:.4f}", above, f"{one.accuracy:.3f}", f"{one.logme:.3f}"]
        rows.append([*backbone, *scores, f"{one.seconds:.0f}"])
    columns = ["backbone", "weights", "pixels", "features"]
    columns += ["log loss", "above the best (standard error)", "accuracy", "LogME", "seconds"]
    console.table(f"linear probe on frozen features, scored on {unseen} it never saw", columns, rows)
    console.say(
        f"chance: log loss {advice.prior:.4f}, accuracy {advice.chance:.3f}; the best probe takes "
        f"{best.skill:.0%} of that loss away"
    )
    console.say(
        f"size: {size.images:,} images of {size.subjects:,} subjects, {size.images_a_class} of the "
        "rarest class"
    )
    if len(rows) > 1:
        console.say(f"the best of {len(rows)} on these folds: a choice, which flatters its figure a little")
    _show_settings(advice)
    case = advice.case
    console.say(f"case: {case.name}. The textbook says: {case.textbook}")
    console.say(f"advice: recipe {case.recipe}; {case.why}")


def _show_settings(advice: "Advice") -> None:
    rows = []
    for one in advice.settings:
        advised = "yes" if one.pays else "no"
        gain = f"{one.gain:+.4f} ({one.error:.4f})"
        rows.append([one.about, f"{one.log_loss:.4f}", gain, advised, one.costs, f"{one.seconds:.0f}"])
    columns = ["setting", "log loss", "gain (standard error)", "advised", "costs", "seconds"]
    console.table(f"{advice.model} with one setting changed, the same probe", columns, rows)


if __name__ == "__main__":
    console.run(main)
