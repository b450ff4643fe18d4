"""`make gpu-check`: its verdicts, its processes, and its short form on a CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from distracted.errors import ConfigError, DistractedError
from distracted.training.mixing import soft_targets
from gpu_check import PARTS, choose_parts, run_part
from gpu_parts.apart import Apart, rows_apart
from gpu_parts.place import Place
from gpu_parts.repeats import UNREPEATABLE, Trained, compare
from gpu_parts.rows import Row, as_json, cells, judged, measured, rates, skipped, verdict_of
from gpu_parts.waits import counting

BENCH = Path(__file__).parents[2] / "bench"
ROWS = [judged("a", "1", "1", True), measured("b", "2 s", seconds=2), skipped("c", "needs two cards")]


def test_one_failed_row_fails_its_part() -> None:
    assert verdict_of([*ROWS, judged("d", "1", "2", False)]) == "FAILED"
    assert verdict_of(ROWS) == "ok"
    assert verdict_of(ROWS[1:]) == "measured"
    assert verdict_of(ROWS[2:]) == verdict_of([]) == "skipped"


def test_rows_become_cells_and_json() -> None:
    assert list(cells("part", ROWS))[1:] == [
        ["", "b", "2 s", "", "measured"],
        ["", "c", "needs two cards", "", "skipped"],
    ]
    written = json.loads(json.dumps(as_json(ROWS, seconds=1.26)))
    assert (written["verdict"], written["seconds"], len(written["rows"])) == ("ok", 1.3, 3)
    assert written["rows"][1]["figures"] == {"seconds": 2}
    assert rates("loader", {"0": 1234.5, "2": 10.0}).value == "0: 1234, 2: 10 img/s"


def test_parts_are_chosen_by_name_and_keep_their_order() -> None:
    assert choose_parts("") == list(PARTS)
    assert choose_parts("repeat device") == ["device", "repeat"]
    with pytest.raises(ConfigError, match="unknown part 'speed'; there are device, pixels"):
        choose_parts("device speed")


def test_a_part_without_time_left_is_skipped_aloud() -> None:
    [row] = run_part("repeat", Place(Path(), "cpu", is_short=True), left=-1.0)
    assert row.verdict == "skipped" and "PARTS=repeat" in row.value


def trained(name: str, valid: str = "x", named: str = "") -> Trained:
    return Trained(name, "fp32", (valid, "test", "network"), named)


def test_other_bytes_fail_except_of_a_network_that_names_its_operation() -> None:
    assert compare(trained("resnet50"), trained("resnet50"), is_cuda=True).verdict == "ok"
    other = compare(trained("resnet50"), trained("resnet50", "y"), is_cuda=True)
    assert other.verdict == "FAILED" and other.value == "valid.parquet differ"
    line = "adaptive_avg_pool2d_backward_cuda has no deterministic implementation on CUDA"
    assert compare(trained("vit", named=line), trained("vit", named=line), is_cuda=True).verdict == "FAILED"
    [name] = UNREPEATABLE
    known = compare(trained(name, named=line), trained(name, "y", line), is_cuda=True)
    assert known.verdict == "ok" and line in known.value and known.figures == {"same": False}
    assert compare(trained(name), trained(name, "y"), is_cuda=True).verdict == "FAILED"  # nothing was said
    assert compare(trained(name), trained(name, "y"), is_cuda=False).verdict == "FAILED"


def test_reads_that_make_a_gpu_wait_are_counted_by_place() -> None:
    values, classes = torch.ones(3, requires_grad=True), torch.tensor([0, 2, 1])
    with counting(is_cuda=False) as places:
        values.sum().backward()  # type: ignore[no-untyped-call]
        soft_targets(classes, np.array([2, 0, 1]), 0.3, num_classes=3)
    assert not places
    with counting(is_cuda=False) as places:
        values.sum().item()
        values[values > 0]
    assert places.total() == 2


def work(how: str) -> Iterator[Row]:
    yield measured("first", "1")
    if how == "raises":
        raise RuntimeError("cuDNN error: broken\nmore")
    if how == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hangs":
        subprocess.run(["sleep", "60"])
    yield measured("last", "2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said", "seconds"),
    [
        ("raises", "RuntimeError: cuDNN error: broken", 200.0),
        ("dies", "ended with signal SIGKILL", 200.0),
        ("hangs", "longer than 15 seconds", 15.0),
    ],
)
def test_a_part_that_breaks_is_a_failed_row_after_those_it_gave(how: str, said: str, seconds: float) -> None:
    assert len(list(rows_apart(work, "ends", seconds=200.0))) == 2  # starts the server that forks
    start = time.monotonic()
    rows = list(rows_apart(work, how, seconds=seconds))
    assert [row.what for row in rows] == ["first", "the part itself"]
    assert rows[1].verdict == "FAILED" and said in rows[1].value
    assert time.monotonic() - start < 50  # the process that it started was ended, too


@pytest.mark.slow
def test_the_results_of_another_process_arrive_in_order() -> None:
    assert [row.what for row in Apart(work, "ends").results(60.0)] == ["first", "last"]
    with pytest.raises(DistractedError, match="broken"):
        list(Apart(work, "raises").results(60.0))


def check(*options: str) -> subprocess.CompletedProcess[str]:
    root = BENCH.parent
    environment = {**os.environ, "PYTHONPATH": f"{root}/src:{root}/scripts", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(BENCH / "gpu_check.py"), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_short_form_passes_on_a_cpu_and_says_what_it_skips(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    done = check("--folder", str(tmp_path / "check"), "--out", str(out), "--seconds", "3000")
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads(out.read_text())
    assert written["machine"]["device"] == "cpu" and written["machine"]["cards"] == []
    assert list(written["parts"]) == list(PARTS)
    verdicts = {part: result["verdict"] for part, result in written["parts"].items()}
    timed = {"loader", "steps", "predictions"}
    assert {part for part, verdict in verdicts.items() if verdict == "measured"} == timed
    assert {part for part, verdict in verdicts.items() if verdict == "skipped"} == {"launches"}
    rows = [row for result in written["parts"].values() for row in result["rows"]]
    assert all(
        row["value"] and (row["expected"] or row["verdict"] in ("measured", "skipped")) for row in rows
    )
    skips = [row["value"] for row in rows if row["verdict"] == "skipped"]
    assert any("needs two cards; the number here is 0" in reason for reason in skips)
    for text in ("no NVIDIA card", "short form", "the same bytes", "skipped", *PARTS):
        assert text in done.stdout
