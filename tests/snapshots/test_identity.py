"""What a snapshot belongs to, and how a difference is told."""

from __future__ import annotations

import copy
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rollforge.snapshots import changes, fingerprint, versions
from rollforge.snapshots.identity import devices_of


def module() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(100, 70), nn.BatchNorm1d(3))
    made.register_buffer("empty", torch.zeros(0, 3))
    return made


@torch.no_grad()
def other_numbers(made: nn.Module) -> None:
    made[0].weight.mul_(1.001)  # type: ignore[index, union-attr, operator]


def other_dtype(made: nn.Module) -> None:
    made.bfloat16()


def other_shape(made: nn.Module) -> None:
    made[0].bias = nn.Parameter(made[0].bias[None].detach())  # type: ignore[index, union-attr]


def other_name(made: nn.Module) -> None:
    made[0].register_parameter("bias_", made[0].bias)  # type: ignore[index, union-attr, operator]
    made[0].bias = None  # type: ignore[index, union-attr]


@torch.no_grad()
def other_buffer(made: nn.Module) -> None:
    made[1].running_mean[1] = 1  # type: ignore[index, union-attr]


@pytest.mark.parametrize("change", [other_numbers, other_dtype, other_shape, other_name, other_buffer])
def test_a_fingerprint_follows_the_weights(change: Any) -> None:
    made = module()
    before = fingerprint(made)
    assert before == fingerprint(module())
    assert len(before) == 64
    change(made)
    assert fingerprint(made) != before


def test_a_fingerprint_does_not_depend_on_where_the_numbers_lie() -> None:
    made, turned = module(), module()
    weight = turned[0].weight  # type: ignore[index, union-attr]
    turned[0].weight = nn.Parameter(weight.detach().T.contiguous().T)  # type: ignore[index, union-attr, operator]
    assert fingerprint(turned) == fingerprint(made)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bool, torch.uint8, torch.bfloat16, torch.complex64])
def test_every_format_has_a_fingerprint(dtype: torch.dtype) -> None:
    made = nn.Module()
    made.register_buffer("x", torch.ones(90, 90).to(dtype).T)
    assert fingerprint(made) == fingerprint(copy.deepcopy(made))


def test_versions_name_what_computes() -> None:
    found = versions()
    assert {"python", "rollforge", "torch", "av", "numpy", "machine"} <= set(found)
    assert found["torch"] == torch.__version__
    assert found["machine"] == {
        "cpu": found["machine"]["cpu"],
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    assert found["machine"]["cpu"]
    assert json.loads(json.dumps(found)) == found


def test_on_a_gpu_the_machine_is_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index // 2}")
    card = [torch.device("cuda", n) for n in range(3)]
    found = versions(card[0])["machine"]
    assert found | {"cuda": "", "cudnn": "", "matmul": ""} == {
        "device": "cuda", "gpu": "Card 0", "cuda": "", "cudnn": "", "matmul": "",
    }  # fmt: skip
    assert versions(card[1])["machine"] == found  # another of the same kind
    assert versions(card[2])["machine"]["gpu"] == "Card 1"
    both = versions(card[0], torch.device("cpu"))["machine"]  # as with a codec on the CPU
    assert both == found | {"device": "cpu, cuda", "cpu": both["cpu"], "threads": torch.get_num_threads()}
    assert devices_of(nn.Linear(1, 1), nn.Identity()) == {torch.device("cpu")}


def test_a_machine_may_not_tell_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollforge.snapshots.identity.PROCESSOR", Path("/nowhere"))
    assert versions()["machine"]["cpu"]


def test_packages_that_only_wan_needs_are_named_where_they_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Diffusers:
        __version__ = "0.99"

    monkeypatch.delitem(sys.modules, "transformers", raising=False)
    monkeypatch.setitem(sys.modules, "diffusers", Diffusers)  # type: ignore[arg-type]
    found = versions()
    assert found["diffusers"] == "0.99"
    assert "transformers" not in found
    assert "transformers" not in sys.modules


OLD = {
    "model": {
        "policy": {"class_path": "RollingSink", "init_args": {"sink_blocks": 5, "window": None}},
        "steps": [1, 2],
    },
    "weights": {"backbone": "1f2e" + "0" * 60, "codec": "aaaaaa1" + "0" * 57},
    "videos": [{"prompt": "a"}, {"prompt": "b"}],
    "gone": {"a": True},
}


def test_equal_identities_have_no_changes() -> None:
    assert changes(OLD, json.loads(json.dumps(OLD))) == []
    kept = {"a": [1, 2], "p": "x", "3": math.nan, "n": 1.0}
    assert changes(kept, {"a": (1, 2), "p": Path("x"), 3: math.nan, "n": 1}) == []  # type: ignore[dict-item]


def test_changes_are_short_and_in_order() -> None:
    new = copy.deepcopy(OLD)
    new["model"]["policy"]["init_args"] = {"sink_blocks": 4, "window": 7, "period": 2}  # type: ignore[index, call-overload]
    new["model"]["steps"] = [1, 2, 3]  # type: ignore[index, call-overload]
    new["weights"] = {"backbone": "77aa" + "0" * 60, "codec": "aaaaaa2" + "0" * 57}
    new["videos"][1]["prompt"] = "x" * 100  # type: ignore[index, call-overload]
    del new["gone"]
    new["seed"] = ""
    assert changes(OLD, new) == [
        "model.policy.init_args.sink_blocks: 5 -> 4",
        "model.policy.init_args.window: null -> 7",
        "model.steps: [1, 2] -> [1, 2, 3]",
        "weights of backbone: 1f2e.. -> 77aa..",
        "weights of codec: aaaaaa1.. -> aaaaaa2..",
        f"videos.1.prompt: b -> {'x' * 58}..",
        "gone.a: true removed",
        "model.policy.init_args.period: 2 added",
        'seed: "" added',
    ]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (1, True, "a: 1 -> true"),
        (None, "null", "a: null -> null"),
        ({}, {"b": 1}, "a: {} removed"),
        ("ab" * 32, "plain", "a: abab.. -> plain"),
        (0.5, 0.25, "a: 0.5 -> 0.25"),
    ],
)
def test_values_of_other_types_differ(one: Any, other: Any, expected: str) -> None:
    assert changes({"a": one}, {"a": other})[0] == expected
