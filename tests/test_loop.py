"""A learner's first edits: each script's text with one place changed trains for an epoch and writes its results."""

import json
import types

import pytest
from conftest import ROOT, draw_nothing

from common.data import celeba

TERMS = "                terms = "
OPTIMIZER = "    optimizer = training.Optimizer(model, muon, lr=lr, muon_decay=MUON_DECAY)\n"
EDITS = {
    "leave the epoch early": (TERMS, f"                if epoch.progress > 0.6: break\n{TERMS}"),
    "leave out batches": (TERMS, f"                if epoch.step % 2: continue\n{TERMS}"),
    "stop the training early": ("    return model\n", "        if epoch.number == 0: break\n    return model\n"),
    "a third term in the loss": ('["loss"].mean()', '["loss"].add(model.decoder[0].weight.square().sum()).mean()'),
    "another optimizer": (OPTIMIZER, "    optimizer = torch.optim.Adam(model.parameters())\n"),
    "no learning-rate cycle": (" * training.one_cycle(epoch.progress)", ""),
    "nothing recorded": ("            epoch.record(terms)", "            pass"),
}


@pytest.mark.parametrize("name", ["vanilla_ae", "vanilla_vae_mnist", "vanilla_vae_celeba"])
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_of_the_loop_does_what_it_says(few_digits, tmp_path, monkeypatch, name, edit):
    faces = name == "vanilla_vae_celeba"
    if faces and edit == "nothing recorded":
        pytest.skip("the faces' variance is a recorded mean")
    before, after = EDITS[edit]
    text = (ROOT / f"{name}.py").read_text().replace("lr=args.lr, muon_decay", "lr=lr, muon_decay")
    assert text.count(before) == 1
    script = types.ModuleType(name)
    exec(compile(text.replace(before, after).replace("lr=lr,", "lr=args.lr or 0.01,"), name, "exec"), vars(script))
    draw_nothing(monkeypatch, script)
    monkeypatch.setattr(celeba, "DRAWN_COUNTS", (1000, 20, 20))
    script.load_digits = lambda *_: few_digits
    flags = ["--faces", "drawn", "--size", "32", "--latent-dim", "8"] if faces else []
    folders = ["--data-dir", str(tmp_path), "--images-dir", str(tmp_path), "--run-dir", str(tmp_path)]
    script.main(["--limit", "1000", "--epochs", "1", "--precision", "fp32", "--device", "cpu", *flags, *folders])
    assert json.loads((tmp_path / "results.json").read_text())["epochs"] == 1
