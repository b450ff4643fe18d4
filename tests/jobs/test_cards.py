"""The names of a machine's GPUs, which of them work, and which a grid or a team gets."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from distracted.config import load_config
from distracted.errors import ConfigError
from distracted.jobs import cards as cards_module
from distracted.jobs.cards import card_names, choose_team, grid_cards, job_device, team_cards, try_cards
from distracted.schema import RunConfig

TWO = """GPU 0: Tesla T4 (UUID: GPU-c7384736-a75d-5afc-978f-d2f1294409fd)
GPU 1: Tesla T4 (UUID: GPU-28a8e0b2-2d4a-0d6f-5b7c-6b1c5f1c7f10)
"""
SLICES = """GPU 0: A100-SXM4-40GB (UUID: GPU-c7384736-a75d-5afc-978f-d2f1294409fd)
  MIG 3g.20gb     Device  0: (UUID: MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f)
  MIG 1g.5gb      Device  1: (UUID: MIG-2a4d4b5e-8a1f-5c5d-9d3b-2f7c8d9e0f1a)
GPU 1: A100-SXM4-40GB (UUID: GPU-28a8e0b2-2d4a-0d6f-5b7c-6b1c5f1c7f10)
"""
OLD_SLICES = """GPU 0: A100-SXM4-40GB (UUID: GPU-c7384736-a75d-5afc-978f-d2f1294409fd)
  MIG 1g.5gb Device 0: (UUID: MIG-GPU-c7384736-a75d-5afc-978f-d2f1294409fd/7/0)
  MIG 1g.5gb Device 1: (UUID: MIG-GPU-c7384736-a75d-5afc-978f-d2f1294409fd/8/0)
"""


@pytest.mark.parametrize(
    ("visible", "num_seen", "listing", "names"),
    [
        (None, 0, "", []),
        (None, 2, TWO, ["0", "1"]),
        (None, 2, "", ["0", "1"]),  # without nvidia-smi, or with AMD's GPUs
        (None, 0, TWO, []),  # torch cannot use them
        (
            None,
            1,
            SLICES,
            [
                "MIG-5c89852c-d268-c3f3-1b07-005d5ae1dc3f",
                "MIG-2a4d4b5e-8a1f-5c5d-9d3b-2f7c8d9e0f1a",
                "GPU-28a8e0b2-2d4a-0d6f-5b7c-6b1c5f1c7f10",
            ],
        ),
        (None, 1, OLD_SLICES, [f"MIG-GPU-c7384736-a75d-5afc-978f-d2f1294409fd/{n}/0" for n in (7, 8)]),
        ("", 0, "", []),
        ("-1", 0, "", []),
        ("2", 1, "", ["2"]),
        ("3,1", 2, "", ["3", "1"]),
        ("0, 2,-1,1", 2, "", ["0", "2"]),  # CUDA stops at the first invalid entry
        ("0,99,1", 1, "", ["0"]),
        ("GPU-c7384736,GPU-28a8", 2, "", ["GPU-c7384736", "GPU-28a8"]),
        ("MIG-5c89852c-d2,MIG-2a4d4b5e-8a,0", 1, "", ["MIG-5c89852c-d2", "MIG-2a4d4b5e-8a"]),
        ("NoDevFiles", 0, "", []),  # SLURM's word for none
    ],
)
def test_the_names_of_gpus(visible: str | None, num_seen: int, listing: str, names: list[str]) -> None:
    assert card_names(visible, num_seen=num_seen, listing=listing) == names


def test_each_card_is_tried_in_a_process_that_sees_it_alone(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\necho "a warning" >&2\n[ "$CUDA_VISIBLE_DEVICES" = 1 ] || exit 0\n'
        'echo "runtime.device=cuda: GTX 1060: torch has no kernels for it; install another" >&2; exit 1\n'
    )
    python.chmod(0o755)
    tried = try_cards(["0", "1", "2"], python=[str(python)])
    assert tried == {"0": "", "1": "GTX 1060: torch has no kernels for it; install another", "2": ""}


@pytest.mark.slow
def test_a_card_that_does_not_exist_does_not_work() -> None:
    [why] = try_cards(["0"]).values()
    assert why.startswith(("torch finds no NVIDIA driver; ", "CUDA shows this process no GPU; ", "torch "))


TRIED = {"0": "", "1": "no kernels", "2": ""}


def test_a_team_gets_the_cards_that_work(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_team(2, "auto", TRIED) == ["0", "2"] and choose_team(2, "cuda", TRIED) == ["0", "2"]
    assert "GPU 1 is not used: no kernels" in caplog.messages
    assert choose_team(2, "auto", {}) == [] and choose_team(2, "auto", {"0": "too old"}) == []


@pytest.mark.parametrize(
    ("size", "device", "tried", "message"),
    [
        (
            3,
            "auto",
            TRIED,
            r"GPUS=3: the number of usable GPUs here is 2; GPU 1: no kernels; exp",
        ),
        (2, "auto", {"0": ""}, r"GPUS=2: the number of usable GPUs here is 1; .*runtime\.device=cpu"),
        (2, "cuda", {}, r"GPUS=2: the number of usable GPUs here is 0; "),
    ],
)
def test_a_team_larger_than_the_number_of_cards_is_refused(
    size: int, device: str, tried: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_team(size, device, tried)


def test_a_team_on_a_machine_without_a_card_shares_the_cpu() -> None:
    assert team_cards(2, "cpu", None) == [] and team_cards(2, "auto", "") == []
    with pytest.raises(ConfigError, match=r"runtime\.device=cuda: .*; "):
        team_cards(2, "cuda", "")
    with pytest.raises(ConfigError, match=r"GPUS=2 with runtime\.device=cuda:1: expected auto, cuda or cpu"):
        team_cards(2, "cuda:1", None)


@pytest.fixture
def three_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three GPUs, of which the one in the middle does not work."""

    def tried(names: Sequence[str]) -> dict[str, str]:
        return {name: "no kernels" if name == "1" else "" for name in names}

    monkeypatch.setattr(cards_module, "try_cards", tried)
    monkeypatch.setattr(cards_module, "sees_cuda", lambda: True)
    monkeypatch.setattr(cards_module, "list_gpus", lambda: "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)


def config(*overrides: str, model: str = "resnet50") -> RunConfig:
    return load_config(model=model, data="sample", overrides=list(overrides))


@pytest.mark.usefixtures("three_cards")
def test_a_grid_gets_the_cards_that_work_or_those_that_it_names(caplog: pytest.LogCaptureFixture) -> None:
    auto, cpu, last = (config(f"runtime.device={device}") for device in ("auto", "cpu", "cuda:2"))
    assert grid_cards(None, [auto, cpu]) == {"0": 0, "2": 2} and "GPU 1 is not used" in caplog.text
    assert grid_cards("5,6,7", [auto]) == {"5": 0, "6": 1, "7": 2}
    assert grid_cards(None, [last, cpu]) == {"2": 2}
    assert grid_cards(None, [last, auto]) == {"0": 0, "2": 2}
    assert grid_cards(None, [cpu]) == {}
    with pytest.raises(ConfigError, match=r"runtime\.device=cuda:3: the number of GPUs here is 3"):
        grid_cards(None, [config("runtime.device=cuda:3")])
    with pytest.raises(ConfigError, match=r"runtime\.device=cuda:x: expected auto"):
        grid_cards(None, [config("runtime.device=cuda:x")])


def test_a_grid_resolves_a_run_for_the_device_that_its_jobs_get(monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = {0: (7, 5), 1: (8, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capabilities[device.index])
    assert job_device(config(), {}) is None
    assert job_device(config(), {"1": 1}) == torch.device("cuda", 1)
    assert job_device(config("runtime.device=cpu"), {"1": 1}) == torch.device("cpu")
    assert job_device(config("runtime.num_gpus=0"), {"1": 1}) == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"training\.precision=auto: .*\(bf16 and fp16\)"):
        job_device(config(), {"0": 0, "1": 1})
    assert job_device(config("training.precision=fp32"), {"0": 0, "1": 1}) == torch.device("cuda", 0)


@pytest.mark.usefixtures("three_cards")
def test_slices_are_all_of_the_first_device_that_this_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards_module, "list_gpus", lambda: SLICES)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert list(grid_cards(None, [config()]).values()) == [0, 0, 0]
