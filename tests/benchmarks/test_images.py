# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of images: what it says of each contender, and cirkit's circuit where it is installed."""

from __future__ import annotations

import json
import math

import pytest
import torch

from benchmarks import images, images_cirkit
from benchmarks.grey_trees import images as grey_images
from pyro_spvae import RegionGraph

WORDS = ["--data", "digits", "--budget", "0.5", "--units", "3", "--test", "40", "--samples", "3"]
THREE = RegionGraph((3,), [[0], [1], [2]], [(3, 1, 2), (4, 0, 3)])

with_cirkit = pytest.mark.skipif(not images_cirkit.is_installed(), reason="cirkit is not installed")


def test_curves_table_and_picture(tmp_path, capsys):
    text = images.main([*WORDS, "--out", str(tmp_path / "out.json"), "--picture", str(tmp_path / "out.png")])
    records = json.loads((tmp_path / "out.json").read_text())
    names = [images.VAES, images.TREE, images.RANDOM, *([images_cirkit.NAME] if images_cirkit.is_installed() else [])]
    assert [own["name"] for own in records] == names
    assert text.count("\n") == 1 + len(names) and capsys.readouterr().out.endswith(text + "\n")
    for own in records:
        seconds, bits = zip(*own["curve"], strict=True)
        assert len(seconds) == images.TURNS and list(seconds) == sorted(seconds)
        assert bits[-1] < bits[0]
    # 3 units of 64 pixels with 17 levels, and of each of 63 edges to a parent and the root's children 3 x 3 weights
    assert 64 * 3 * 17 < records[1]["parameters"] < 64 * 3 * (17 + 6) + 3
    assert (tmp_path / "out.png").stat().st_size > 5000


def test_bits_of_a_tree_are_exact():
    given = images.arguments(WORDS)
    tree = images.contenders(given)[1]
    assert isinstance(tree, images.Ours)
    nats = tree.job.spvae.log_prob(tree.test.to(torch.float32)).detach().double().mean()
    assert tree.test.shape == (40, 1, 8, 8) and tree.bits() == pytest.approx(-float(nats) / 64 / math.log(2), rel=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--budget", "0"], "budget is 0.0; a number above 0"), (["--data", "wine.csv"], "wine")],
)
def test_refusals(words, message):
    with pytest.raises(ValueError, match=message):
        images.main([*WORDS, *words])


def test_says_that_cirkit_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(images_cirkit, "is_installed", lambda: False)
    assert len(images.contenders(images.arguments(WORDS))) == 3
    assert f"cirkit is not installed and is left out: {images_cirkit.INSTALL}" in capsys.readouterr().out


@with_cirkit
def test_cirkit_has_a_normalised_circuit_of_the_same_size():
    circuit = images_cirkit.CirkitCircuit(THREE, 2, 3)
    every = torch.cartesian_prod(*[torch.arange(3)] * 3)
    assert circuit(every).exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert sum(parameter.numel() for parameter in circuit.parameters()) == 3 * 2 * 3 + 4 * 2 * 2 + 2


def test_pixels_of_the_synthetic_images_depend_on_their_neighbours():
    x = grey_images(500).double()
    assert x.shape == (500, 1, 28, 28) and x.min() >= 0 and x.max() <= 255 and bool((x == x.round()).all())
    left, right = x[..., :-1].flatten(), x[..., 1:].flatten()
    assert float(torch.corrcoef(torch.stack([left, right]))[0, 1]) > 0.5
