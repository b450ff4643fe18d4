"""Shared by all commands: options, the store, errors in one or two lines.

Printing is in terminal.py, stopping in signals.py. Commands import heavy packages inside their functions, so
that `--help` answers at once.
"""

import inspect
import io
import logging
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

import signals
from distracted.config import DataFolder, load_config, load_data_config, load_runtime_config
from distracted.data.pixel_limit import limit_pixels
from distracted.errors import ConfigError, DistractedError, first_line
from distracted.paths import Workspace
from distracted.schema import DataConfig, RunConfig, RuntimeConfig
from distracted.stopping import RESUMABLE, Stopped
from terminal import err as err
from terminal import out as out
from terminal import outlast_readers
from terminal import progress as progress
from terminal import say as say
from terminal import table as table
from terminal import warn as warn
from threads import share_machine

if TYPE_CHECKING:
    from distracted.headline import Metric
    from distracted.postprocess.derived import Gain
    from distracted.predictions.store import Store

Data = Annotated[
    str, typer.Option("--data", help="A name in configs/data, or a folder (with a slash in it).")
]
Set = Annotated[str, typer.Option("--set", help="Overrides, e.g. 'training.seed=1 model.image_size=128'.")]
Root = Annotated[
    Path, typer.Option("--root", help="Where input/, oof/ and the other folders are.", hidden=True)
]
_Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Force = Annotated[bool, typer.Option("--force", help="Redo what is done already.")]
TimeLimit = Annotated[
    str, typer.Option("--time-limit", help="Stop in time, such as 8h30m; the same command goes on.")
]
Leaky = Annotated[
    bool, typer.Option("--leaky", help="Watch the scored fold while training, or blend such runs; recorded.")
]

HERE = Path()
#: The network whose features compare images, unless MODEL= names another: its weights come with the project.
COMPARING = "efficientnet_lite0"
#: Names of the scores that are always shown, for readers.
SCORES = {"log_loss": "log loss", "accuracy": "accuracy", "macro_f1": "macro F1", "auc": "AUC"}


def run(main: Callable[..., None]) -> None:
    """Run a command; errors that a user can fix are printed in one or two lines, with exit code 1.

    Adds the option --debug, which shows the traceback of such an error.
    """

    @wraps(main)
    def command(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        for stream in (sys.stdout, sys.stderr):  # names of files may be of any bytes
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        outlast_readers()
        logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_Messages()], force=True)
        logging.getLogger("distracted").setLevel(logging.INFO)
        share_machine()
        os.environ.setdefault("WANDB_DATA_DIR", str(Path("runs/.wandb").absolute()))  # not the home folder
        try:
            with signals.listening(), signals.stops_first():
                main(*args, **kwargs)
        except Stopped as error:
            again = "the same command goes on"
            if kwargs.get("force"):
                again = f"without FORCE=1 {again} with what it had begun"
            err.print(Text(f"stopped ({error}); what was done is kept, and {again}", style="bold red"))
            raise typer.Exit(RESUMABLE) from None
        except (DistractedError, OSError, MemoryError, RuntimeError) as error:
            if debug or not (text := _describe(error)):
                raise
            err.print(Text(f"error: {text}", style="bold red"))
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            err.print(Text("interrupted; finished folds are kept", style="bold red"))
            raise typer.Exit(130) from None

    option = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Debug)
    signature = inspect.signature(main)
    signature = signature.replace(parameters=[*signature.parameters.values(), option])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {**main.__annotations__, "debug": _Debug}
    typer.run(command)


def be_quiet() -> None:
    """Print only errors, and no progress: the team's lead prints everything else."""
    logging.getLogger("distracted").setLevel(logging.ERROR)
    out.quiet = True


def _describe(error: Exception) -> str:
    """An error that a user can fix, in words; "" for another."""
    if isinstance(error, DistractedError):
        return str(error)
    if isinstance(error, OSError):
        name = error.filename2 or error.filename  # of a failed rename the target
        where = f"{name}: " if name else ""  # a full disk, or no right to write
        return f"{where}{error.strerror or first_line(error)}; finished work is kept"
    if isinstance(error, MemoryError):
        return f"the memory ran out ({first_line(error)}); finished work is kept"
    if "can't start new thread" in str(error):
        limits = "a container's --pids-limit, or ulimit -u"
        return f"the system allows no further threads ({limits}): allow more; finished work is kept"
    return ""


class _Messages(logging.Handler):
    """The library's messages as plain lines."""

    def __init__(self) -> None:
        super().__init__()
        self._process = os.getpid()

    def emit(self, record: logging.LogRecord) -> None:
        if os.getpid() != self._process:  # a thread that draws may have held the console when it was forked
            with suppress(OSError):
                os.write(2, f"{record.getMessage()}\n".encode(errors="backslashreplace"))
            return
        style = "yellow" if record.levelno >= logging.WARNING else ""
        err.print(Text(record.getMessage(), style=style))


def overrides(text: str) -> list[str]:
    """SET="..." as separate settings; quotes, braces and brackets keep values with spaces together."""
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"SET={text!r}: {error}") from error
    settings: list[str] = []
    depth = 0
    for part in parts:
        if depth > 0:
            settings[-1] += f" {part}"
        else:
            settings.append(part)
        depth += sum(part.count(bracket) for bracket in "{[") - sum(part.count(bracket) for bracket in "}]")
    return settings


def runtime(text: str) -> RuntimeConfig:
    """The runtime section under SET="...", which may set nothing else."""
    return load_runtime_config(overrides(text))


def runtime_in(text: str) -> RuntimeConfig:
    """The runtime section under SET="...", which may set other things, too."""
    return load_runtime_config([item for item in overrides(text) if item.startswith("runtime")])


def workspace(root: Path, runtime: RuntimeConfig) -> Workspace:
    """The workspace with runtime.cache_dir, which has to be writable; sets the limit on pixels, too."""
    limit_pixels(runtime.max_megapixels)
    if runtime.cache_dir is None:
        return Workspace(root)
    folder = root / Path(runtime.cache_dir).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ without a home
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ConfigError(
            f"runtime.cache_dir={runtime.cache_dir}: {folder} is not writable ({reason}); name another folder"
        ) from error
    return Workspace(root, folder)


def place(data: str | DataFolder, root: Path, runtime: RuntimeConfig) -> str | DataFolder:
    """DATA= for `load_config`: a folder goes by the name of the store that its data belongs to."""
    from distracted.predictions.placing import find_store

    if isinstance(data, DataFolder) or "/" not in data:
        return data
    name = find_store(workspace(root, runtime), load_data_config(data, root=root), progress=progress)
    folder = DataFolder.at(data)
    return data if name == folder.name else DataFolder(folder.path, name)


def comparing(model: str, set: str) -> str:
    """SET= for a network that compares images: small ones tell enough, and take a third of the time."""
    return f"model.image_size=128 {set}" if model == COMPARING else set


def run_config(model: str, data: str, set: str, root: Path, *, leaky: bool = False) -> RunConfig:
    """The config of MODEL=, DATA= and SET="..."."""
    placed, settings = place(data, root, runtime_in(set)), overrides(set)
    return load_config(model=model, data=placed, overrides=settings, leaky=leaky, root=root)


def open_store(
    data: str | DataFolder | DataConfig,
    root: Path,
    runtime: RuntimeConfig,
    *,
    num_folds: int | None = None,
    images: bool = True,
) -> "Store":
    """Open the store of DATA= or of a data config; arguments as in the library's `open_store`."""
    from distracted.predictions import store

    if not isinstance(data, DataConfig):
        data = load_data_config(place(data, root, runtime), root=root)
    place_of_files = workspace(root, runtime)
    return store.open_store(place_of_files, data, num_folds=num_folds, images=images, progress=progress)


def data_variable(data: str) -> str:
    """What a command that is shown needs after a space to mean this data: " DATA=...", or ""."""
    return "" if data == "state_farm" else f" DATA={shlex.quote(data)}"


def track(store: "Store", runtime: RuntimeConfig, *names: str) -> None:
    """Log finished runs to W&B, if it is on."""
    if runtime.tracking == "none":
        return
    from distracted.tracking.log import track_run

    for name in names:
        track_run(store, name, runtime)


def free_bytes(folder: Path) -> float:
    """Free space on the disk of a folder."""
    return float(shutil.disk_usage(folder).free)


def run_names(runs: str, name: str) -> list[str]:
    """RUNS="..." as names, each once; NAME= is allowed for a single run."""
    names = list(dict.fromkeys(runs.split()))
    if not names:
        raise ConfigError("RUNS= is missing: one or more complete runs; make status lists them")
    if name and len(names) > 1:
        raise ConfigError(f"NAME={name}: one name for {len(names)} runs; leave it out, or name one run")
    return names


def gains(title: str, rows: Sequence[tuple[str, str, "Gain", str]]) -> None:
    """Print what a step gained: for each run its name, the new run's name, the gain, and how."""
    titles = {gain.metric.title for _, _, gain, _ in rows} - {"log loss"}
    pooled = " ".join(["pooled OOF", *titles])
    columns = ["run", pooled, "new run", pooled, "difference (standard error)", "how"]
    cells = []
    for run, made, gain, how in rows:
        difference = f"{gain.difference:+.4f} ({gain.error:.4f})"
        cells.append([run, f"{gain.before:.4f}", made, f"{gain.after:.4f}", difference, how])
    table(title, columns, cells)


def scores(values: Mapping[str, float], metric: "Metric | None" = None) -> str:
    """Scores by name in one line, the competition's first."""
    shown = {key.removeprefix("valid/"): value for key, value in values.items()}
    names = SCORES if metric is None else {metric.name: metric.title, **SCORES}
    return ", ".join(f"{name} {shown[key]:.4f}" for key, name in names.items() if key in shown)
