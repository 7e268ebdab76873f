"""Points that are trained first: which trainings are made, reused and continued, and their losses on the page."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from finished_runs import config

from rollforge.commands.compare import _trainings
from rollforge.comparison.executor import RunExecutor
from rollforge.comparison.identity import content_hash, trained_hash, training_hash
from rollforge.comparison.page.build import build
from rollforge.comparison.run_result import gather
from rollforge.comparison.runs import Run
from rollforge.comparison.training import TrainingRun, check_training
from rollforge.comparison.vary import points
from rollforge.errors import UserError

PROGRAM = """
import json, sys
from pathlib import Path
folder = Path(sys.argv[sys.argv.index("--output_dir") + 1])
how = next(each for each in sys.argv if each.startswith("--how=")).partition("=")[2]
(folder / "calls").open("a").write(" ".join(sys.argv[1:]) + "\\n")
cut = how == "cut" and "--resume" not in sys.argv
if sys.argv[1] == "fit":
    (folder / "training.json").write_text(json.dumps({"complete": how != "fail" and not cut, "step": 3}))
    (folder / "last.ckpt").write_text(how)
    if how == "fail" or cut:
        print("rollforge: The loss is nan at step 3.", file=sys.stderr)
        sys.exit(2)
else:
    assert Path(sys.argv[sys.argv.index("--ckpt_path") + 1]).read_text() == how
    (folder / "manifest.json").write_text(json.dumps({"complete": True, "videos": []}))
    (folder / "metrics.json").write_text("{}")
"""
OBJECTIVE = {"class_path": "rollforge.objectives.flow.DiffusionForcing", "init_args": {"shift": 1.0}}
DATASET = {"class_path": "rollforge.data.clips.WorldClips", "init_args": {"frames": 6}}


def trained(**more: Any) -> dict[str, Any]:
    """A resolved config that can be trained."""
    found = config("Window", ["a"])
    found["model"]["objective"], found["data"]["train_dataset"] = deepcopy(OBJECTIVE), deepcopy(DATASET)
    found["trainer"] = {"max_steps": 4}
    for path, value in more.items():
        section, _, key = path.partition("__")
        found[section][key] = value
    return found


def made(folder: Path, how: str) -> list[Run]:
    """A training and a run for each point."""
    runs = []
    for n, point in enumerate(points([f"how={how}"])):
        training = TrainingRun(point, {}, f"{n:064x}", folder / "trainings", point.arguments, 4)
        runs.append(Run(point, {}, f"{n + 9:064x}", folder / "runs", point.arguments, 1.0, training))
    return runs


def work(folder: Path, runs: list[Run]) -> None:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    trainings = [run.training for run in runs if run.training]
    RunExecutor([*trainings, *runs], [sys.executable, "-S", str(program)]).all()


def calls(run: Run | None) -> list[list[str]]:
    assert run is not None
    return [line.split() for line in (run.folder / "calls").read_text().splitlines()]


def test_a_point_is_trained_then_measured_and_a_failed_training_is_not_measured(tmp_path: Path, capsys: Any) -> None:
    good, fail = runs = made(tmp_path, "good,fail")
    work(tmp_path, runs)
    assert good.finished
    assert [call[0] for call in calls(good.training) + calls(good)] == ["fit", "test"]
    assert fail.failure == "its training failed: The loss is nan at step 3."
    assert not fail.folder.exists()
    assert "how=good: done, 4 of 4 steps" not in capsys.readouterr().out  # the file says 3
    work(tmp_path, again := made(tmp_path, "good,fail"))
    assert len(calls(again[0].training)) == len(calls(again[0])) == 1
    assert ["--resume" in call for call in calls(again[1].training)] == [False, True]


def test_a_training_that_was_cut_continues_and_its_point_is_measured_then(tmp_path: Path) -> None:
    work(tmp_path, made(tmp_path, "cut"))
    (run,) = made(tmp_path, "cut")
    work(tmp_path, [run])
    assert [call[-1] for call in calls(run.training)][1] == "--resume"
    assert run.finished
    assert not run.failure


@pytest.mark.parametrize(
    ("change", "trained_again"),
    [
        ({"data__prompts": ["b"]}, False),
        ({"data__seconds": 9.0}, False),
        ({"model__metrics": [1]}, False),
        ({"trainer__max_steps": 5}, True),
        ({"data__batch_size": 3}, True),
        ({"data__seed": 1}, True),
        ({"model__objective": {**OBJECTIVE, "init_args": {"shift": 2.0}}}, True),
    ],
)
def test_a_training_is_made_anew_where_its_weights_depend_on_what_has_changed(
    change: dict[str, Any], trained_again: bool
) -> None:
    former, now = trained(), trained(**change)
    assert (training_hash(former) != training_hash(now)) is trained_again
    hashes = [trained_hash(each, training_hash(each)) for each in (former, now)]
    assert hashes[0] != hashes[1] or content_hash(former) == content_hash(now)


def test_points_that_train_alike_share_a_training(tmp_path: Path) -> None:
    configs = [trained(), trained(data__seconds=9.0), trained(trainer__max_steps=7)]
    first, second, third = _trainings(tmp_path, points(["n=1,2,3"]), [["a"]] * 3, configs)
    assert first is second
    assert (first.asked, third.asked) == (4, 7)
    assert first.folder != third.folder


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model__objective": None}, "compare --fit needs model.objective, the loss"),
        ({"data__train_dataset": None}, "compare --fit needs data.train_dataset, what to train on"),
        ({"trainer__max_steps": -1}, "compare --fit needs trainer.max_steps"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_runs(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        check_training(trained(**change))


def test_the_page_shows_the_losses_of_each_point_beside_its_curves(finished: Any, tmp_path: Path) -> None:
    runs = finished(["a", "b"], 2)
    for n, run in enumerate(runs):
        run.training = TrainingRun(run.point, {}, "0" * 64, tmp_path / f"trainings{n}", (), 400)
        run.training.folder.mkdir(parents=True)
        run.training.note()
        rows = [f"{step},{2 / step + n},{'' if step % 2 else 0.5}" for step in range(1, 401)]
        run.training.losses.write_text("step,loss,loss_first_block\n" + "\n".join(rows) + "\n")
    page = build(gather(runs), tmp_path, ["rollforge", "compare"], ["model.policy=Window,RollingSink"]).decode(
        errors="replace"
    )
    section = page[page.index('id="curves"') : page.index('id="plans"')]
    assert "Losses and curves over time" in section
    assert section.count('class="card losses"') == 2
    first = section[section.index("loss over training steps") : section.index("loss_first_block over training")]
    assert [f'data-point="{n}"' in first for n in (0, 1, 2)] == [True, True, False]
    assert "nan" not in first
    assert "rollforge fit --output_dir" in page


def test_a_page_without_trainings_has_no_losses(finished: Any, tmp_path: Path) -> None:
    page = build(gather(finished(["a"], 1)), tmp_path, ["rollforge"], ["model.policy=Window"]).decode(errors="replace")
    assert "losses" not in page[page.index('id="curves"') : page.index('id="plans"')]
