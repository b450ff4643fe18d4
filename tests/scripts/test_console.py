"""How commands end."""

import logging
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import console
from distracted.errors import ConfigError
from distracted.paths import CONFIGS
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


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left on device"), "No space left on device; finished work is kept"),
        (MemoryError("Unable to allocate 9 GiB"), "the memory ran out (Unable to allocate 9 GiB)"),
        (RuntimeError("can't start new thread"), "the system allows no further threads"),
    ],
)
def test_what_the_machine_lacks_is_an_error_in_one_line(
    error: Exception, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as info:
        console.run(failing_with(error))
    assert info.value.code == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {text}") and "\nTraceback" not in shown


def test_any_other_error_is_a_fault_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        console.run(failing_with(RuntimeError("shapes do not fit")))


def failing_with(error: Exception) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


ENV = {**os.environ, "PYTHONPATH": f"{CONFIGS.parent / 'src'}:{CONFIGS.parent / 'scripts'}"}
COMMAND = """
import os
import sys
import time
from pathlib import Path

import console
import signals

def main() -> None:
    with signals.stop.waiting():
        Path("begun").touch()
        while not signals.stop.reason:
            time.sleep(0.01)
        console.say("saving")
        print("saving", file=sys.stderr)
        Path("saved").write_text(signals.stop.reason)
        signals.stop.check()

console.run(main)
"""


@pytest.mark.parametrize(
    ("connect", "prefix", "sent", "reason"),
    [
        (os.pipe, [], [signal.SIGINT], "Ctrl-C"),
        (pty.openpty, [], [signal.SIGHUP], "the terminal has gone"),
        (pty.openpty, ["nohup"], [signal.SIGHUP, signal.SIGTERM], "SIGTERM"),
    ],
    ids=["tee", "terminal", "nohup"],
)
def test_a_command_saves_its_work_when_nobody_reads_its_output_any_more(
    connect: Callable[[], tuple[int, int]],
    prefix: list[str],
    sent: list[signal.Signals],
    reason: str,
    tmp_path: Path,
) -> None:
    """Ctrl-C ends the `tee` behind a command, too; a lost connection takes its terminal away."""
    reader, writer = connect()
    process = subprocess.Popen(
        ["env", "--default-signal=HUP", *prefix, sys.executable, "-c", COMMAND],  # pytest may run under nohup
        stdout=writer,
        stderr=writer,
        cwd=tmp_path,
        env=ENV,
        start_new_session=True,
    )
    os.close(writer)
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.close(reader)
    for number in sent:
        process.send_signal(number)
    assert process.wait(60) == RESUMABLE
    assert (tmp_path / "saved").read_text() == reason


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_on_a_full_disk_lost_results_are_an_error_and_a_lost_log_is_not(stream: str) -> None:
    command = "import console\ndef main() -> None:\n console.warn('a')\n console.say('b')\nconsole.run(main)"
    with Path("/dev/full").open("w") as full:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full}
        done = subprocess.run([sys.executable, "-c", command], text=True, env=ENV, timeout=60, **streams)
    assert (done.returncode == 0) == (stream == "stderr")
    assert done.stdout == "b\n" if stream == "stderr" else "No space left on device" in done.stderr


def test_a_forked_process_can_say_something_while_a_progress_bar_is_drawn(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The thread that draws holds the console for a moment, in which a loader's process may be forked."""
    messages, drawn, forked = console._Messages(), threading.Event(), threading.Event()

    def draw() -> None:
        with console.err._lock:
            drawn.set()
            forked.wait()

    thread = threading.Thread(target=draw)
    thread.start()
    drawn.wait()
    copy = os.fork()
    if not copy:
        signal.alarm(20)
        messages.emit(logging.makeLogRecord({"msg": "a.jpg: damaged", "levelno": logging.WARNING}))
        os._exit(0)
    forked.set()
    thread.join()
    assert os.waitpid(copy, 0)[1] == 0
    assert capfd.readouterr().err == "a.jpg: damaged\n"
