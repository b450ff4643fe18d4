"""Download a competition from Kaggle into input/, completely or not at all."""

import logging
import re
import shutil
import zipfile
import zlib
from contextlib import suppress
from errno import EDQUOT, ENOSPC
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from distracted.errors import DataError
from distracted.kaggle_client import sign_in
from distracted.kaggle_credentials import find_credentials
from distracted.locks import hold, holder
from distracted.progress import Progress, silent
from distracted.schema import DataConfig

if TYPE_CHECKING:
    from distracted.data.fetch import Archive

_log = logging.getLogger(__name__)

# A bad archive, a broken or truncated stream, an unknown compression method, an encrypted member
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


def download_competition(config: DataConfig, *, progress: Progress = silent) -> None:
    """Download and unpack a competition into `config.folder`, which may be a link to where nothing lies yet.

    The folder appears by one rename at the end. Until then everything is in a hidden folder next to it, from
    which the same call goes on at the byte, or at the archive, where the last one ended.

    Raises:
        CredentialsError: Kaggle's credentials are missing or refused.
        LockError: another process is downloading it.
        DataError: the folder exists, `data.kaggle` is not set, Kaggle refuses the download, or the archive is
            damaged or unsafe.
    """
    from distracted.data.fetch import Archive, fetch  # slow to import

    if config.kaggle is None:
        only = "only competitions on Kaggle can be downloaded"
        raise DataError(f"data {config.name}: data.kaggle is not set; {only}")
    folder = config.folder.resolve() if config.folder.is_symlink() else config.folder
    part = folder.with_name(f".{folder.name}.part")
    if folder.exists() and not any(part.glob("archive.*")) and holder(part / "lock.json") is None:
        shutil.rmtree(part, ignore_errors=True)  # a process was killed after the rename
    _check_is_new(folder)
    find_credentials()  # says what is missing before anything is written
    content = part / "content"
    try:
        with hold(part / "lock.json", f"downloading {folder.name}") as lock:
            _check_is_new(folder)
            _warn_of_leftovers(folder)
            archive = Archive(part / "archive.zip", config.kaggle)
            if not (content.is_dir() or archive.state.is_complete):
                with sign_in() as kaggle:
                    fetch(kaggle, archive, progress=progress)
            _unpack_all(archive, content, progress)
            lock.check()
            content.rename(folder)
        shutil.rmtree(part, ignore_errors=True)
    finally:
        with suppress(OSError):  # not empty, or removed already
            part.rmdir()


def _check_is_new(folder: Path) -> None:
    if folder.exists():
        raise DataError(f"{folder} exists already; remove it to download again")


def _warn_of_leftovers(folder: Path) -> None:
    """Earlier versions of this project downloaded into folders of random names, which a kill left behind."""
    for path in folder.parent.glob(f".{folder.name}.*"):
        if re.fullmatch(r"\.[a-z0-9_]{8}", path.name.removeprefix(f".{folder.name}")) and path.is_dir():
            _log.warning("%s: left by a download that was killed; it may be removed", path)


def _unpack_all(archive: "Archive", content: Path, progress: Progress) -> None:
    """Unpack an archive and those within it; `content` exists once the outer one is unpacked."""
    unpacking = content.with_name("unpacking")
    try:
        if not content.is_dir():
            shutil.rmtree(unpacking, ignore_errors=True)
            unpack(archive.path, unpacking, progress=progress)
            if not unpacking.is_dir():
                raise DataError(f"{archive.state.competition}: Kaggle sent an empty archive")
            unpacking.rename(content)
        archive.discard()
        for inner in sorted(content.glob("*.zip")):  # as in competitions of 2016
            _extract(inner, content, progress)  # over what a killed process has unpacked
            inner.unlink()
    except DataError as error:
        if not isinstance(error.__cause__, OSError):  # room on the disk would not help
            archive.discard()
            shutil.rmtree(content, ignore_errors=True)
        raise


def unpack(archive: Path, folder: Path, *, progress: Progress = silent) -> None:
    """Unpack a zip archive into a new folder; no member may land outside of it.

    Raises:
        DataError: the archive is damaged, or a member has an absolute path, `..`, a drive or is a link;
            nothing is unpacked then.
    """
    try:
        _extract(archive, folder, progress)
    except DataError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _extract(archive: Path, folder: Path, progress: Progress) -> None:
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
        raise DataError(f"{archive.name}: damaged archive ({error}); download it again") from error
    except OSError as error:
        way_out = "; make room, the same command goes on" if error.errno in (ENOSPC, EDQUOT) else ""
        failed = f"cannot be unpacked to {folder} ({error.strerror}){way_out}"
        raise DataError(f"{archive.name}: {failed}") from error


def _check_member(member: zipfile.ZipInfo, archive: Path) -> None:
    name = member.orig_filename  # as stored: zipfile silently cleans `filename`
    path, windows = PurePosixPath(name.replace("\\", "/")), PureWindowsPath(name)
    is_link = (member.external_attr >> 28) == 0xA
    if path.is_absolute() or windows.drive or ".." in path.parts or is_link:
        raise DataError(f"{archive.name}: member {name!r} leads outside of the folder; nothing was unpacked")
