"""Decides whether, where and how W&B is used, by the client's own settings and requests.

The settings come from WANDB_... variables and W&B's settings files; docs/wandb.md lists which of them count.
"""

import logging
import netrc
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from distracted.errors import TrackingError, first_line
from distracted.schema import RuntimeConfig

if TYPE_CHECKING:  # slow to import: wandb is imported once a run is really tracked
    from wandb import Settings

_log = logging.getLogger(__name__)

#: The project where neither the config nor W&B's settings name one.
PROJECT = "distracted"
#: What the service says of a run that was deleted on its site; it refuses the run's id for good.
DELETED = "previously created and deleted"

_ASK_SECONDS = 20  # for a slow line; without any answer, the client's retry ends after 3 s
_FINISH_SECONDS = 60.0  # to send the rest when a run ends; what is not sent stays on disk
_INIT_SECONDS = 30.0
#: Settings that name one run or one trial. A process makes several runs: folds, their run, a blend.
OF_ONE_RUN = ("run_id", "resume", "resume_from", "fork_from", "sweep_id", "sweep_param_path")

#: WANDB_MODE, WANDB_DISABLED and NETRC are read here, and nothing else.
_VARIABLES = os.environ
_FALSE = ("", "0", "false", "f", "no", "n", "off")

Mode = Literal["online", "offline", "disabled"]


def is_switched_off(runtime: RuntimeConfig) -> bool:
    """Whether W&B is off by the config or the environment; the client need not be imported to know.

    WANDB_DISABLED is a variable of other training libraries, not of the client. Whoever sets it wants
    nothing to be sent.
    """
    disabled = _VARIABLES.get("WANDB_DISABLED", "").strip().lower() not in _FALSE
    return runtime.tracking == "none" or disabled or _VARIABLES.get("WANDB_MODE") == "disabled"


def client_settings() -> "Settings":
    """The client's settings, as environment and files say.

    Raises:
        TrackingError: the client rejects them. Nothing may be sent then: they may ask for just that.
    """
    import wandb

    try:
        settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
    except Exception as error:  # of many types
        wandb.teardown()  # or the client would go on with those read before the error: online
        raise TrackingError(f"W&B's client rejects its settings: {_reason(error)}") from error
    if "mode" not in settings.model_fields_set:
        # The client reads the files of the first, but writes to those of the second, where WANDB_DIR says.
        for place in (wandb.Settings(), settings):
            if mode := place.read_system_settings().all().get("mode"):
                raise TrackingError(
                    f"W&B's client ignores a settings file that says mode = {mode}: a value in it is invalid "
                    f"(`wandb status` shows which), or it lies in WANDB_DIR; WANDB_MODE={mode} counts"
                )
    for name in OF_ONE_RUN:
        setattr(settings, name, None)
    return settings


def _reason(error: Exception) -> str:
    """An error in one line; a validation error's own first line says only that there is one."""
    if callable(errors := getattr(error, "errors", None)):
        return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in errors())
    return first_line(error)


def quiet_settings() -> "Settings":
    """Settings under which the client prints nothing and sends nothing about this machine."""
    import wandb

    return wandb.Settings(
        reinit="create_new",  # otherwise a fold would continue a run that W&B failed to finish
        silent=True,
        host="",
        program="distracted",  # otherwise the script's path
        console="off",
        disable_git=True,
        save_code=False,
        init_timeout=_INIT_SECONDS,
        finish_timeout=_FINISH_SECONDS,
        finish_timeout_raises=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_disable_stats=True,
    )


def project_of(runtime: RuntimeConfig) -> str:
    """The W&B project: the config's, else that of W&B's settings, else `PROJECT`."""
    return runtime.project or client_settings().project or PROJECT


def variables(runtime: RuntimeConfig) -> list[str]:
    """W&B's mode and place, as variables for a process that inherits nothing of this one; never the key."""
    if is_switched_off(runtime):
        return ["WANDB_MODE=disabled"]
    try:
        settings = client_settings()
    except TrackingError as error:
        _log.warning("%s; W&B is off", error)
        return ["WANDB_MODE=disabled"]
    modes = {"dryrun": "offline", "offline": "offline", "disabled": "disabled"}
    wanted = {"WANDB_MODE": modes.get(settings.mode), "WANDB_PROJECT": settings.project}
    wanted |= {"WANDB_ENTITY": settings.entity, "WANDB_NOTES": settings.run_notes}
    wanted |= {"WANDB_TAGS": ",".join(settings.run_tags or ())}
    return [f"{name}={value}" for name, value in wanted.items() if value]


def find_wandb_mode() -> Mode:
    """Online unless the settings say otherwise, no key is configured, or the server does not take it."""
    settings = client_settings()
    if settings.mode == "disabled":
        return "disabled"
    if settings.mode in ("offline", "dryrun") or not _has_key(settings):
        return "offline"
    if reason := ask_server(settings.base_url):
        text = f"W&B is unavailable ({reason}); keeping the run offline"
        _log.warning("%s (`make wandb-sync` sends it later)", text)
        return "offline"
    return "online"


def _has_key(settings: "Settings") -> bool:
    return bool(settings.api_key or settings.identity_token_file or _has_login(settings.base_url))


def _has_login(base_url: str) -> bool:
    """Whether `wandb login` has stored a key for the server, by its host and port."""
    given = _VARIABLES.get("NETRC")
    for name in [given] if given else ["~/.netrc", "~/_netrc"]:
        try:
            login = netrc.netrc(Path(name).expanduser()).authenticators(urlsplit(base_url).netloc)
        except (FileNotFoundError, RuntimeError):  # RuntimeError: no home folder
            continue
        except (OSError, netrc.NetrcParseError, ValueError) as error:
            _log.warning("W&B: the file with its keys cannot be read: %s", first_line(error))
            continue
        return bool(login and login[2])
    return False


@cache
def ask_server(base_url: str) -> str:
    """Why the server cannot be used: no answer, or a key that it refuses; "" if it can. Asked once a process.

    The client that will send asks, with its certificates, proxies and credentials.
    """
    import wandb

    settings = client_settings()
    retries, settings.x_graphql_retry_max = settings.x_graphql_retry_max, 1
    try:
        api = wandb.Api(timeout=_ASK_SECONDS)  # signs in with a key
        if not api.api_key:  # but not with a token
            _ = api.default_entity
    except Exception as error:  # the client raises many types
        return " ".join(str(error).partition("while retrying:")[0].split()) or first_line(error)
    finally:
        settings.x_graphql_retry_max = retries
    return ""


def server_answers() -> bool:
    """Whether the server can be used, asked again."""
    ask_server.cache_clear()
    return not ask_server(client_settings().base_url)


def require_server(runtime: RuntimeConfig, reason: str) -> None:
    """Raise TrackingError, with the reason why the server is needed, unless W&B is online."""
    settings = client_settings()
    if is_switched_off(runtime):
        problem = "switched off (runtime.tracking, WANDB_MODE or WANDB_DISABLED)"
    elif settings.mode in ("offline", "dryrun", "disabled"):
        problem = f"its mode is {settings.mode} (WANDB_MODE, or a settings file)"
    elif not _has_key(settings):
        problem = "no key (`wandb login`)"
    else:
        problem = ask_server(settings.base_url)
    if problem:
        raise TrackingError(f"W&B is unavailable: {problem}; {reason}")
