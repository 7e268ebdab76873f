"""A teacher's solutions, made by the command, and the regression on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from objective_parts import network, pipeline
from small import MODEL, one_thread  # noqa: F401 - a fixture is used by being here
from torch import Tensor

from rollforge.cli import main
from rollforge.data.trajectories import Trajectories
from rollforge.errors import UserError
from rollforge.files.checksummed import write_sealed
from rollforge.objectives import teacher_ode
from rollforge.objectives.ode import OdeRegression
from rollforge.samplers import Euler, FewStep

FRAMES = 6
CAPTIONS = ["a red ball over snow at day", "a blue box over sand at night"]


def write_config(folder: Path, **data: Any) -> str:
    model = MODEL | {"sampler": {"class_path": "Euler", "init_args": {"steps": 4, "shift": 2.0, "guidance": 3.0}}}
    settings = {"model": model, "data": {"prompts": CAPTIONS, "batch_size": 1} | data, "seed_everything": 3}
    (folder / "teacher.yaml").write_text(yaml.safe_dump(settings))
    return str(folder / "teacher.yaml")


def made(folder: Path, *more: str, **data: Any) -> Path:
    config, out = write_config(folder, **data), folder / "paths"
    assert main(["trajectories", "--config", config, "--output_dir", str(out), *more]) == 0
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.clip")}


def test_the_states_are_on_the_guided_solution_at_the_students_steps(tmp_path: Path, monkeypatch: Any) -> None:
    """Each state to the next by one Euler step of the recorded flows, and the steps of both in one grid."""
    steps: list[tuple[float, Tensor]] = []
    flow = teacher_ode._flow

    def recording(pipeline: Any, x: Tensor, level: float, *rest: Any) -> Tensor:
        steps.append((level, flow(pipeline, x, level, *rest)))
        return steps[-1][1]

    monkeypatch.setattr(teacher_ode, "_flow", recording)
    dataset = Trajectories(str(made(tmp_path, "--clips", "1", "--timesteps", "1000", "500")))
    clip = dataset[0]
    assert clip["caption"] == CAPTIONS[0]
    torch.testing.assert_close(clip["timesteps"], torch.tensor([1000.0, 1000 * 5 / 6]))
    levels = [level for level, _ in steps]
    expected = sorted({1000.0, *(1000 * 2 * u / (1 + u) for u in (0.75, 0.5, 0.25)), 1000 * 5 / 6}, reverse=True)
    assert levels == pytest.approx(expected)
    x, states = clip["trajectory"][0], {}
    for (level, found), lower in zip(steps, [*levels[1:], 0.0], strict=True):
        states[round(level)] = x
        x = x + (lower - level) / 1000 * found[0]
    torch.testing.assert_close(clip["trajectory"][1], states[833])
    torch.testing.assert_close(clip["trajectory"][2], x)
    assert clip["trajectory"].shape[:2] == (3, FRAMES)


def test_guidance_counts_from_the_negative_prompt_and_every_frame_sees_every_frame() -> None:
    owner = pipeline(network().requires_grad_(False), sampler=Euler(1, guidance=3.0))
    noise = torch.randn(1, FRAMES, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    found = teacher_ode.solve(owner, noise, CAPTIONS[:1], [1000.0])
    alone = [teacher_ode._unguided(owner, noise, 1000.0, owner.condition([text]), None) for text in (CAPTIONS[0], "")]
    torch.testing.assert_close(found[:, 1], noise - (alone[1] + 3 * (alone[0] - alone[1])))
    changed = noise.clone()
    changed[:, -1] += 1
    assert not torch.isclose(teacher_ode.solve(owner, changed, CAPTIONS[:1], [1000.0])[:, 1, 0], found[:, 1, 0]).all()


def test_an_interrupted_command_continues_with_what_is_missing(tmp_path: Path) -> None:
    out = made(tmp_path)
    whole = contents(out)
    assert len(whole) == 2
    (out / "00000001.clip").unlink()
    with pytest.raises(UserError, match="holds 1 of 2 trajectories; run the same"):
        Trajectories(str(out))
    kept = (out / "00000000.clip").stat().st_mtime_ns
    made(tmp_path)
    assert contents(out) == whole
    assert (out / "00000000.clip").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda data: data[:-8], "truncated"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "its checksum differs"),
    ],
)
def test_a_damaged_file_is_refused_before_training(damage: Any, expected: str, tmp_path: Path) -> None:
    out = made(tmp_path, "--clips", "1")
    Trajectories(str(out))  # which notes size and date
    file = out / "00000000.clip"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=rf"trajectory .*00000000.clip is damaged \({expected}.*which makes it"):
        Trajectories(str(out))


@pytest.mark.parametrize(
    ("words", "tensors", "absent"),
    [({}, ("timesteps", "trajectory"), "caption"), ({"caption": "a"}, ("timesteps",), "trajectory")],
)
def test_a_file_that_lacks_something_is_refused_before_training(
    words: dict[str, str], tensors: tuple[str, ...], absent: str, tmp_path: Path
) -> None:
    write_sealed(tmp_path / "00000000.clip", "trajectory", words, {name: torch.zeros(1) for name in tensors})
    (tmp_path / "trajectories.json").write_text('{"clips": 1}')
    with pytest.raises(UserError, match=rf"trajectory .*00000000.clip is damaged \(it holds no {absent}\)"):
        Trajectories(str(tmp_path))


def test_other_options_do_not_mix_in_one_folder(tmp_path: Path, capsys: Any) -> None:
    out = made(tmp_path, "--clips", "1")
    assert (
        main(["trajectories", "--config", str(tmp_path / "teacher.yaml"), "--output_dir", str(out), "--shift", "3"])
        == 2
    )
    assert "holds trajectories of another teacher, data or options" in capsys.readouterr().err


def test_with_clean_history_the_true_clip_is_stored_last(tmp_path: Path) -> None:
    clips = {"class_path": "WorldClips", "init_args": {"frames": FRAMES, "clips": 1}}
    out = made(tmp_path, "--history", "clean", "--timesteps", "1000", train_dataset=clips)
    states = Trajectories(str(out))[0]["trajectory"]
    assert states.shape[:2] == (3, FRAMES)
    assert not torch.allclose(states[1], states[2])
    assert json.loads((out / "trajectories.json").read_text())["history"] == "clean"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model.sampler=FewStep"], "needs the sampler Euler, not FewStep"),
        (["--frames", "4"], "4 latent frames are not whole blocks of 3"),
        (["--history", "clean"], "--history clean needs data.train_dataset"),
        (["--timesteps", "500", "1000"], "timesteps must fall"),
    ],
)
def test_what_cannot_be_solved_says_why(options: list[str], expected: str, tmp_path: Path, capsys: Any) -> None:
    config = write_config(tmp_path)
    assert main(["trajectories", "--config", config, "--output_dir", str(tmp_path / "paths"), *options]) == 2
    assert expected in capsys.readouterr().err


def clips_of(steps: list[float], states: int) -> Any:
    shape = (2, states, FRAMES, 3, 4, 4)
    return {"trajectory": torch.zeros(shape), "timesteps": torch.tensor([steps] * 2), "caption": CAPTIONS}


@pytest.mark.parametrize(
    ("clips", "history", "expected"),
    [
        (
            {"video": torch.zeros(1), "caption": CAPTIONS},
            "noisy",
            "trains on trajectories of a teacher; set data.train",
        ),
        (
            clips_of([1000, 400], 3),
            "noisy",
            r"states at timesteps \[1000.0, 400.0\], and model.sampler FewStep",
        ),
        (clips_of([1000, 500], 3), "clean", "history=clean needs the clip that the teacher was given"),
    ],
)
def test_clips_that_cannot_be_regressed_say_why(clips: Any, history: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        OdeRegression(history)(pipeline(sampler=FewStep((1000, 500), shift=1.0)), clips)
