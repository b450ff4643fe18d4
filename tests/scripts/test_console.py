"""How commands end."""

import sys

import pytest

import console
from distracted.errors import ConfigError
from distracted.stopping import RESUMABLE, Stopped


def exit_code(fail: Exception, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """The exit code of a command that is stopped while a library's clean-up raises this error."""

    def main() -> None:
        try:
            raise Stopped("SIGTERM")
        except Stopped:
            raise fail  # noqa: B904

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as info:
        console.run(main)
    return info.value.code


def test_a_stop_is_not_hidden_by_the_error_that_it_causes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """OmegaConf's clean-up fails within a stop; the config was then said to be invalid."""
    assert exit_code(ConfigError("train.yaml: not valid YAML"), monkeypatch) == RESUMABLE
    assert capsys.readouterr().err.startswith("stopped (SIGTERM); what was done is kept")


def test_a_file_that_cannot_be_written_is_still_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert exit_code(OSError(28, "No space left on device"), monkeypatch) == 1
