"""Conservation as a feature: the table, the scatter plot, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import onnxsal
from onnxsal.cli.app import app
from onnxsal.metrics import Conservation, conservation
from onnxsal.report.charts import conservation_plot
from tests.torch_nets import export, images, net, randomise, resnet18


def test_sums_end_with_the_input_and_begin_with_the_score() -> None:
    explainer = onnxsal.Explainer(export(net("resnet18")), "lrp_epsilon", components=True)
    x = images(3).numpy()
    result = conservation(explainer, x)
    found = explainer.explain(x)
    assert result.cuts[-1] == "input"
    np.testing.assert_allclose(result.sums[:, -1], found.attribution.sum((1, 2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.sums[:, 0], found.score, rtol=1e-6)
    assert len(result.blocks) == 8
    assert result.accounted.max() < 1e-4
    one_by_one = conservation(explainer, [x[:1], x[1:]])
    np.testing.assert_allclose(one_by_one.sums, result.sums, rtol=1e-3, atol=1e-4)
    with pytest.raises(onnxsal.OnnxsalError, match="sends no relevance"):
        conservation(onnxsal.Explainer(export(net("resnet18"))), x)


def test_a_trained_network_with_black_backgrounds_conserves() -> None:
    """A small residual network trained for a moment on bright squares on black: whole receptive fields are dead."""
    torch.manual_seed(0)
    model = randomise(resnet18(stages=2, classes=4)).train().requires_grad_()
    x, y = torch.zeros(64, 3, 32, 32), torch.arange(64) % 4
    for i, corner in enumerate(y):
        top, left = 4 + 16 * (int(corner) // 2), 4 + 16 * (int(corner) % 2)
        x[i, :, top : top + 8, left : left + 8] = torch.rand(3, 8, 8)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(30):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimiser.step()
    model.eval().requires_grad_(False)
    assert (model(x).argmax(1) == y).float().mean() > 0.9
    for split in ("ratio", "symmetric"):
        result = conservation(onnxsal.Explainer(export(model), "lrp_resnet", components=True, split=split), x[:8].numpy())
        assert np.abs(result.error).max() < 1e-3, split
    signed = onnxsal.Explainer(export(model), "lrp_resnet", components=True, split="signed")
    assert np.isfinite(conservation(signed, x[:8].numpy()).sums).all()


def test_the_plot_shows_blocks_and_input() -> None:
    rng = np.random.default_rng(0)
    score, zero = rng.uniform(1, 9, 20), np.zeros((20, 3))
    sums = np.stack([score, score * 0.9, score * 0.5], axis=1)
    result = Conservation("lrp_resnet", score, ("last", "first", "x"), sums, zero, zero, ("last", "first"))
    image = conservation_plot(result)
    assert image.width > 3 * 240
    assert (np.asarray(image) == (0, 114, 178)).all(-1).sum() > 200
    sums[3, 2] = np.nan
    assert "not finite" in result.warnings[0]
    conservation_plot(result)


def test_the_command(tmp_path: Path) -> None:
    model, plot, batch = tmp_path / "m.onnx", tmp_path / "plot.png", tmp_path / "x.npy"
    onnx.save(export(net("resnet18")), model)
    np.save(batch, images(2).numpy())
    runner = CliRunner()
    done = runner.invoke(app, ["check", str(model), "--conservation", "--on", str(batch), "--plot", str(plot)])
    assert done.exit_code == 0, done.output
    assert "residual block" in done.output
    assert plot.exists()
    told = runner.invoke(app, ["check", str(model), "--conservation", "--method", "lrp_epsilon", "--on", str(batch), "--json"])
    facts = json.loads(told.stdout)
    assert facts["largest_unaccounted"] < 1e-3
    assert len(facts["blocks"]) == 8
    refused = runner.invoke(app, ["check", str(model), "--plot", str(plot)])
    assert refused.exit_code == 2
