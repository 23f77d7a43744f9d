"""The code of docs/own_stage1.md runs from top to bottom, and its parts determine the run."""

import re
from pathlib import Path

import torch
from recorded import REPOSITORY

from modeling_umt import UMTForVideoClassification
from modeling_umt.token_selection_umt import draw_masks

GUIDE = REPOSITORY / "docs" / "own_stage1.md"


def test_the_code_of_the_guide_trains_a_student(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    torch.manual_seed(0)
    scope: dict = {"__name__": "guide"}
    exec(compile("\n".join(blocks), str(GUIDE), "exec"), scope)

    losses = [line["loss"] for line in scope["trainer"].state.log_history if "loss" in line]
    assert len(losses) == 4 and all(0 < loss < 4 for loss in losses)
    saved = Path("stage1")
    assert (saved / "model.safetensors").is_file()
    UMTForVideoClassification.from_pretrained(saved)

    attention, seeds = torch.rand(3, 2, 16), torch.tensor([1, 2, 3])
    masks = draw_masks(scope["centre_token_selection"], attention, 0.75, seeds, 2)
    assert masks.shape == (3, 2, 8) and (masks.diff(dim=-1) > 0).all()
    again = draw_masks(scope["centre_token_selection"], attention[1:], 0.75, seeds[1:], 2)
    torch.testing.assert_close(masks[1:], again)  # a function of the clip's seed only
