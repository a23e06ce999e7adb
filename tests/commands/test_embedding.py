# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``embed``: the model's embedding, what its axes are, and its size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_spvae.commands import embed, embedding
from pyro_spvae.queries import clustering_accuracy
from pyro_spvae.training.run import open_run
from tests.commands.cases import asked, assert_picture, load, names, rows, same


def test_the_models_embedding(digits, tmp_path):
    lines = []
    arrays = embed(digits, out=tmp_path, report=lines.append)
    assert not any(key.startswith(("components_", "most_probable_")) for key in arrays)
    assert names(tmp_path) == ["test.npz", "test.png"] and len(lines) == 2
    wanted = asked(digits, 5, lambda spvae: spvae.embed(rows(digits)))
    assert same(arrays["latent_z"], wanted.latents["z"]) and arrays["latent_z"].shape == (250, 8, 3)
    assert same(arrays["leaf_posterior"], wanted.leaf_posterior)
    for i, posterior in enumerate(wanted.sum_posterior):
        assert same(arrays[f"sum_posterior_{i}"], posterior)
    written = load(tmp_path / "test.npz")
    assert written.keys() == arrays.keys()
    assert all(np.array_equal(arrays[key], written[key]) for key in arrays)
    assert_picture(tmp_path / "test.png")


class TestMixture:
    def test_components_and_their_agreement_with_labels(self, mixture, tmp_path, monkeypatch):
        monkeypatch.setattr(embedding, "_ROWS", 16)
        lines = []
        arrays = embed(mixture, num=40, out=tmp_path, report=lines.append)
        labels = open_run(mixture).data().test.labels[:40]
        assert same(arrays["labels"], labels) and len(labels.unique()) > 5
        probs, best = arrays["components_c"], arrays["most_probable_c"]
        assert probs.shape == (40, 8, 3) and np.allclose(probs, arrays["latent_c"], atol=1e-6)
        assert best.dtype == np.int64 and np.array_equal(best, probs.argmax(-1))
        found = [clustering_accuracy(torch.from_numpy(best[:, leaf]), labels) for leaf in range(8)]
        mean, leaf = sum(found) / 8, int(np.argmax(found))
        wanted = f"c by labels of 40 rows: {max(found):.4f} of the best leaf, {leaf}, {mean:.4f} in the mean of 8"
        assert [line for line in lines if line.startswith("accuracy")] == [f"accuracy    {wanted}"]
        written = load(tmp_path / "test.npz")
        assert all(np.array_equal(arrays[key], written[key]) for key in ("labels", "components_c", "most_probable_c"))

    def test_one_leaf_has_one_number(self):
        labels, best = np.array([3, 3, 1, 1]), np.array([[0], [0], [2], [0]])
        arrays = {"labels": labels, "most_probable_z": best, "latent_most_probable_": labels}
        assert list(embedding._agreement(arrays)) == ["accuracy    z by labels of 4 rows: 0.7500"]
        both = np.concatenate([best, np.zeros_like(best), np.full_like(best, -1)], 1)  # the last leaf has no such site
        arrays = {"labels": labels, "most_probable_c": both, "most_probable_z": best}
        assert list(embedding._agreement(arrays)) == [
            "accuracy    c by labels of 4 rows: 0.7500 of the best leaf, 0, 0.6250 in the mean of 2",
            "accuracy    z by labels of 4 rows: 0.7500",
        ]

    def test_without_labels_there_is_no_accuracy(self, mixture, tmp_path):
        np.save(tmp_path / "own.npy", open_run(mixture).data().test[:].byte().numpy())
        lines = []
        arrays = embed(mixture, data=str(tmp_path / "own.npy"), out=tmp_path / "out", report=lines.append)
        assert "labels" not in arrays and "components_c" in arrays
        assert not any("accuracy" in line for line in lines)

    def test_labels_of_an_own_file(self, mixture, tmp_path):
        """Of the rows of the split, in their order."""
        x = open_run(mixture).data().test[:].byte().numpy()
        number = np.arange(len(x))
        np.savez(tmp_path / "own.npz", x=x, labels=number)
        arrays = embed(mixture, data=str(tmp_path / "own.npz"), out=tmp_path / "out", num=9)
        again = asked(mixture, 5, lambda spvae: spvae.embed(torch.from_numpy(x[arrays["labels"]]).float(), sums=False))
        assert len(set(arrays["labels"].tolist())) == 9 and np.allclose(arrays["components_c"].sum(-1), 1, atol=1e-5)
        assert np.array_equal(arrays["most_probable_c"], again.most_probable["c"].numpy())


def test_what_the_axes_are(digits, tmp_path):
    arrays = embed(digits, out=tmp_path, num=3)
    circuit = open_run(digits).spvae.circuit
    assert arrays["leaf_region"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert arrays["leaf_scope"].tolist() == [list(scope) for scope in circuit.regions.leaf_scopes]
    groups = [arrays[f"sum_regions_{i}"].tolist() for i in range(len(circuit.log_weights()))]
    inner = range(circuit.num_leaf_regions, len(circuit.regions.region_partitions))
    assert {region for group in groups for region in group} == set(inner)
    assert groups[-1] == [circuit.regions.root]
    for i, group in enumerate(groups):
        assert arrays[f"sum_posterior_{i}"].shape[:2] == (3, len(group))
    assert np.allclose(arrays[f"sum_posterior_{len(groups) - 1}"].sum((1, 2, 3)), 1, atol=1e-5), "the root is reached"
    assert np.allclose(arrays["leaf_posterior"].reshape(3, 4, 2).sum(-1), 1, atol=1e-5)


def test_ragged_scopes_are_padded(table, tmp_path):
    arrays = embed(table, out=tmp_path)
    scopes = open_run(table).spvae.circuit.regions.leaf_scopes
    assert len(set(map(len, scopes))) > 1, "or this shows nothing"
    assert [tuple(row[row >= 0]) for row in arrays["leaf_scope"]] == list(scopes)
    assert names(tmp_path) == ["test.npz", "test.png"] and arrays["latent_z"].dtype == np.float64
    assert "labels" not in arrays


def test_blocks_of_rows_are_put_together(digits, tmp_path, monkeypatch):
    whole = embed(digits, num=40, out=tmp_path)
    monkeypatch.setattr(embedding, "_ROWS", 16)
    parts = embed(digits, num=40, out=tmp_path)
    assert whole.keys() == parts.keys()
    assert np.allclose(whole["latent_z"], parts["latent_z"], atol=1e-5), "means need no noise"
    for key in whole:
        assert whole[key].shape == parts[key].shape
    assert np.abs(whole["leaf_posterior"] - parts["leaf_posterior"]).mean() < 0.05


def test_posteriors_of_sums_are_refused_when_too_large(digits, tmp_path, monkeypatch):
    weights = sum(weight.numel() for weight in open_run(digits).spvae.circuit.log_weights())
    monkeypatch.setattr(embedding, "MAX_SUMS", 10 * 4 * weights)
    message = "^the posteriors of sum nodes of 250 rows would take .* GiB, .* by --no-sums, or embed fewer rows by --"
    with pytest.raises(ValueError, match=message):
        embed(digits, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert "sum_posterior_0" in embed(digits, num=10, out=tmp_path)
    arrays = embed(digits, sums=False, out=tmp_path)
    assert not any(key.startswith("sum_") for key in arrays) and len(arrays["latent_z"]) == 250


def test_principal_components_need_two_rows(digits, tmp_path):
    lines = []
    arrays = embed(digits, num=1, out=tmp_path, report=lines.append)
    assert "one row has no principal components, so there is no picture" in lines[0]
    assert names(tmp_path) == ["test.npz"] and "explained_variance" not in arrays
    arrays = embed(digits, num=2, out=tmp_path)
    assert names(tmp_path) == ["test.npz", "test.png"]
    assert np.allclose(arrays["explained_variance"][:, 0], 1, atol=1e-5), "two points lie on a line"


def test_panels_and_patches(digits, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("pyro_spvae.plots.save", lambda figure, path: figures.append(figure))
    embed(digits, panels=1, grid=5, num=20, out=tmp_path)
    embed(digits, num=20, out=tmp_path)
    assert [len(figure.axes) for figure in figures] == [1, 2]
    assert [figure.axes[0].images[0].get_array().shape for figure in figures] == [(41, 41, 3), (65, 65, 3)]
