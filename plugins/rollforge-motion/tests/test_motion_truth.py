"""The true motion, against the pictures; what is kept and lost, against loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rollforge_motion.augment import cropped, recoloured
from rollforge_motion.data import MovingWorld, ShiftedWorld
from rollforge_motion.losses import Agreement, cycle_loss, supervised, warp_loss
from rollforge_motion.shift import clip

from rollforge.data.world import Scene

TWO = Scene.parse("a red ball and a blue box over sand at day")
APART = 6


def bilinear(picture: np.ndarray, x: float, y: float) -> np.ndarray:
    """A picture ``[H, W, C]`` at a place, by the formula."""
    left, top = int(np.floor(x)), int(np.floor(y))
    right, below = (min(each + 1, length - 1) for each, length in ((left, picture.shape[1]), (top, picture.shape[0])))
    u, v = x - left, y - top
    upper = (1 - u) * picture[top, left] + u * picture[top, right]
    lower = (1 - u) * picture[below, left] + u * picture[below, right]
    found: np.ndarray = (1 - v) * upper + v * lower
    return found


@pytest.mark.parametrize("domain", ["world", "textures"])
def test_the_true_motion_leads_to_the_same_colours(domain: str) -> None:
    """Inside of each thing, and on the ground, where nothing is hidden in the other frame."""
    video, motion = clip(domain, TWO, 5, APART + 1)  # type: ignore[arg-type] # a Literal
    flow, owner = motion.flow(0, APART), motion.owner
    seen = {-1: [], 0: [], 1: []}
    for y in range(3, 61, 2):
        for x in range(3, 61, 2):
            mine = owner[0, y, x]
            to_x, to_y = x + flow[y, x, 0], y + flow[y, x, 1]
            there = owner[APART, int(to_y) - 2 : int(to_y) + 4, int(to_x) - 2 : int(to_x) + 4]
            here = owner[0, y - 2 : y + 3, x - 2 : x + 3]
            if (here == mine).all() and (there == mine).all():
                shown = bilinear(video[APART].astype(float), to_x, to_y)
                seen[mine].append(np.abs(shown - video[0, y, x]).mean())
    assert all(len(each) > 15 for each in seen.values())
    assert {mine: float(np.mean(each)) < 4 for mine, each in seen.items()} == {-1: True, 0: True, 1: True}
    lengths = np.hypot(*flow.reshape(-1, 2).T)
    assert 0.4 * APART - 1e-3 <= lengths[lengths > 0].min() <= lengths.max() <= 0.9 * APART + 1e-3


def test_the_codec_changes_the_pictures_and_not_the_motion() -> None:
    (plain, motion), (shifted, same) = (clip(domain, TWO, 5, 3) for domain in ("world", "codec"))  # type: ignore[arg-type]
    assert (motion.flow(0, 2) == same.flow(0, 2)).all()
    assert 0.5 < np.abs(plain.astype(float) - shifted).mean() < 20
    assert not (shifted == clip("codec", TWO, 5, 3, noise=0)[0]).all()


@pytest.mark.parametrize("textures", [0.0, 1.0])
def test_crops_at_different_places_move_the_ground(textures: float) -> None:
    pairs = MovingWorld(furthest=1, shift=5, textures=textures)
    moved = [each for each in (pairs[n] for n in range(12)) if float(each["flow"][0, 0].abs().max()) > 1]
    assert moved
    for each in moved:
        x, y = (int(value) for value in each["flow"].flatten(0, 1).median(0).values)
        before, after = (frame.float() for frame in each["video"])
        rows, columns = slice(max(0, -y), 48 - max(0, y)), slice(max(0, -x), 48 - max(0, x))
        to = slice(rows.start + y, rows.stop + y), slice(columns.start + x, columns.stop + x)
        assert float((before[rows, columns] - after[to]).abs().median()) <= 1
    again = ShiftedWorld("codec", frames=3)
    assert torch.equal(again[4]["video"], ShiftedWorld("codec", frames=3)[4]["video"])


def test_pixels_are_kept_by_the_published_rule() -> None:
    drawn = torch.Generator().manual_seed(2)
    forward = torch.randn(1, 2, 9, 11, generator=drawn) * 2
    backward = -forward.roll(1, 3) + 0.1 * torch.randn(1, 2, 9, 11, generator=drawn)
    before = torch.rand(1, 3, 9, 11, generator=drawn) * 2 - 1
    after = before + 0.05 * torch.randn(1, 3, 9, 11, generator=drawn)
    rule = Agreement(share=0.1, pixels=1.5, colour=0.25)
    kept = rule.kept(forward, backward, before, after)[0]
    wanted = torch.zeros(9, 11, dtype=torch.bool)
    f, b, one, two = (each[0].permute(1, 2, 0).double().numpy() for each in (forward, backward, before / 2, after / 2))
    for y in range(9):
        for x in range(11):
            to_x, to_y = x + f[y, x, 0], y + f[y, x, 1]
            if not (0 <= to_x <= 10 and 0 <= to_y <= 8):
                continue
            back = bilinear(b, to_x, to_y)
            allowed = 0.1 * (np.linalg.norm(f[y, x]) + np.linalg.norm(back)) + 1.5
            alike = np.abs(bilinear(two, to_x, to_y) - one[y, x]).mean() < 0.25
            wanted[y, x] = bool(np.linalg.norm(f[y, x] + back) <= allowed and alike)
    assert 5 < int(wanted.sum()) < 90
    assert torch.equal(kept, wanted)
    assert Agreement() == Agreement(0.0025, 0.125, 0.005)


def test_the_losses_are_their_formulas() -> None:
    found = [torch.full((1, 2, 4, 4), value) for value in (1.0, 2.0)]
    flow, kept = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool)
    kept[0, 0, :2] = True
    flow[0, 0, 0, 1] = 500.0  # too long to count
    assert float(supervised(found, flow, kept, 0.5)) == pytest.approx(0.5 * 2 + 4)
    assert float(supervised(found, flow, ~kept & kept, 0.5)) == 0
    ramp = torch.arange(6.0).expand(1, 3, 6, 6) / 5 * 2 - 1  # rises by 0.2 a pixel, in 0..1
    still, step = torch.zeros(1, 2, 6, 6), torch.tensor([1.0, 0.0])[:, None, None].expand(1, 2, 6, 6)
    assert float(warp_loss([step], ramp, ramp, 0.9)) == pytest.approx(0.2, abs=1e-5)
    assert float(warp_loss([still], ramp, ramp, 0.9)) == pytest.approx(0, abs=1e-5)
    assert float(cycle_loss([step], [-step], 0.9)) == pytest.approx(0, abs=1e-5)
    assert float(cycle_loss([step], [step], 0.9)) == pytest.approx(2, abs=1e-5)


def test_augmentation_keeps_pixels_and_labels_together() -> None:
    torch.manual_seed(0)
    picture = torch.rand(2, 3, 20, 24) * 2 - 1
    place = torch.arange(480.0).view(1, 1, 20, 24).expand(2, 2, -1, -1)
    cut, label = cropped((8, 16), picture, place)
    y, x = divmod(int(label[0, 0, 0, 0]), 24)
    assert torch.equal(cut, picture[..., y : y + 8, x : x + 16])
    assert label.shape == (2, 2, 8, 16)
    first, second = recoloured(picture, picture, apart=0)
    assert torch.equal(first, second)
    assert not torch.equal(first, picture)
    first, second = recoloured(picture, picture, apart=1)
    assert not torch.equal(first, second)
    assert float(first.abs().max()) <= 1
