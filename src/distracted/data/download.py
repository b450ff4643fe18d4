"""Download a competition from Kaggle into input/, completely or not at all."""

import logging
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from distracted.errors import DataError
from distracted.kaggle_client import refusal, sign_in
from distracted.progress import Progress, silent
from distracted.schema import DataConfig

_log = logging.getLogger(__name__)

# A bad archive, a broken or truncated stream, an unknown compression method, an encrypted member
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


def download_competition(config: DataConfig, *, progress: Progress = silent) -> None:
    """Download and unpack a competition into `config.folder`.

    The folder appears by one rename at the end; an interrupted download leaves nothing.

    Raises:
        CredentialsError: Kaggle's credentials are missing or refused.
        DataError: the folder exists, `data.kaggle` is not set, Kaggle refuses the download, or the archive is
            damaged or unsafe.
    """
    if config.kaggle is None:
        only = "only competitions on Kaggle can be downloaded"
        raise DataError(f"data {config.name}: data.kaggle is not set; {only}")
    if config.folder.exists():
        raise DataError(f"{config.folder} exists already; remove it to download again")
    api = sign_in()
    config.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=config.folder.parent, prefix=f".{config.name}.") as temporary:
        _log.info("downloading %s from Kaggle", config.kaggle)
        try:
            api.competition_download_files(config.kaggle, path=temporary, quiet=False)
        except (Exception, SystemExit) as error:  # those of requests and of the client have no common base
            raise DataError(
                f"{config.kaggle} cannot be downloaded: {refusal(error, config.kaggle)}"
            ) from error
        content = Path(temporary) / "content"
        for folder in (content.parent, content):  # competitions of 2016 have archives within the archive
            for archive in sorted(folder.glob("*.zip")):
                unpack(archive, content, progress=progress)
                archive.unlink()
        if not content.is_dir():
            raise DataError(f"{config.kaggle}: Kaggle sent no zip archive")
        content.rename(config.folder)


def unpack(archive: Path, folder: Path, *, progress: Progress = silent) -> None:
    """Unpack a zip archive; no member may land outside of the folder.

    Raises:
        DataError: the archive is damaged, or a member has an absolute path, `..`, a drive or is a link;
            nothing is unpacked then.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            members = file.infolist()
            for member in members:
                _check_member(member, archive)
            with progress(f"unpacking {archive.name}", total=len(members), unit="file") as step:
                for member in members:
                    file.extract(member, folder)
                    step()
    except _DAMAGED as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise DataError(f"{archive.name}: damaged archive ({error}); download it again") from error
    except OSError as error:  # such as a full disk
        shutil.rmtree(folder, ignore_errors=True)
        raise DataError(f"{archive.name}: cannot be unpacked to {folder} ({error.strerror})") from error


def _check_member(member: zipfile.ZipInfo, archive: Path) -> None:
    name = member.orig_filename  # as stored: zipfile silently cleans `filename`
    path, windows = PurePosixPath(name.replace("\\", "/")), PureWindowsPath(name)
    is_link = (member.external_attr >> 28) == 0xA
    if path.is_absolute() or windows.drive or ".." in path.parts or is_link:
        raise DataError(f"{archive.name}: member {name!r} leads outside of the folder; nothing was unpacked")
