# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``sample``, ``reconstruct``, ``impute`` and ``interpolate``: the model's own answers, in files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from pyro_spvae import plots
from pyro_spvae.commands import impute, interpolate, reconstruct, sample
from pyro_spvae.commands.given import given_name
from tests.cli_cases import invoke, refused
from tests.commands.cases import asked, assert_picture, load, names, rows, same


class VerbTests:
    """What holds for every verb; subclasses name it and what it is asked."""

    verb: Any = staticmethod(sample)
    options: dict[str, Any] = {}
    name = ""
    sizes = {"num": 2}

    def ask(self, run, out, **options):
        return self.verb(run, out=out, **(self.options | options))

    def test_what_is_returned_is_what_is_written_and_reported(self, digits, tmp_path):
        lines = []
        arrays = self.ask(digits, tmp_path / "new" / "out", report=lines.append)
        assert names(tmp_path / "new" / "out") == [f"{self.name}.npz", f"{self.name}.png"]
        written = load(tmp_path / "new" / "out" / f"{self.name}.npz")
        assert written.keys() == arrays.keys()
        for key, array in arrays.items():
            assert array.dtype == written[key].dtype and np.array_equal(array, written[key])
        assert (float(written["low"]), float(written["high"])) == (0.0, 16.0)
        assert_picture(tmp_path / "new" / "out" / f"{self.name}.png")
        assert lines == [f"written to  {tmp_path / 'new' / 'out' / self.name}{end}" for end in (".npz", ".png")]

    def test_tables_have_arrays_and_rows_in_their_own_names(self, table, tmp_path):
        arrays = self.ask(table, tmp_path)
        assert [name for name in names(tmp_path) if not name.endswith(".csv")] == [f"{self.name}.npz"]
        assert all(array.dtype != np.float32 for key, array in arrays.items() if key not in ("low", "high"))

    def test_the_seed_decides(self, digits, tmp_path):
        state = torch.get_rng_state()
        first, second, other = (self.ask(digits, tmp_path, seed=seed, **self.sizes) for seed in (5, None, 6))
        assert all(np.array_equal(first[key], second[key]) for key in first), "the run's seed is 5"
        assert any(not np.array_equal(first[key], other[key]) for key in first)
        assert f"{self.name}-seed-6.npz" in names(tmp_path) and f"{self.name}-seed-5.npz" not in names(tmp_path)
        assert torch.equal(state, torch.get_rng_state()), "torch's generator is left alone"

    def test_a_model_is_left_as_it_was(self, digits, tmp_path):
        before = {path: path.read_bytes() for path in digits.iterdir() if path.is_file()}
        self.ask(digits, tmp_path)
        assert before == {path: path.read_bytes() for path in digits.iterdir() if path.is_file()}


class TestSample(VerbTests):
    name = "samples"

    def test_samples(self, digits, tmp_path):
        arrays = sample(digits, out=tmp_path)
        assert arrays["samples"].shape == (64, 1, 8, 8)
        assert same(arrays["samples"], asked(digits, 5, lambda spvae: spvae.sample(64)))

    def test_means(self, digits, tmp_path):
        arrays = sample(digits, num=7, means=True, out=tmp_path)
        assert names(tmp_path) == ["means.npz", "means.png"] and arrays.keys() == {"means", "low", "high"}
        assert same(arrays["means"], asked(digits, 5, lambda spvae: spvae.sample(7, means=True)))


class TestGiven:
    @pytest.mark.parametrize(
        ("given", "values", "name"),
        [
            (["c=2"], {"c": 2}, "samples-given-c-2"),
            ("c = 1.0", {"c": 1}, "samples-given-c-1.0"),
            (["c=0", "v=0.5,.25"], {"c": 0, "v": torch.tensor([0.5, 0.25]).float()}, "samples-given-c-0-v-0.5-.25"),
            (["z=-1e-1"], {"z": -0.1}, "samples-given-z--1e-1"),
        ],
    )
    def test_what_is_given_is_held_fixed(self, mixture, tmp_path, given, values, name):
        arrays = sample(mixture, num=6, given=given, out=tmp_path)
        assert names(tmp_path) == [f"{name}{end}" for end in (".npz", ".png")]
        wanted = asked(mixture, 5, lambda spvae: spvae.sample(6, values))
        assert same(arrays["samples"], wanted)
        assert not same(arrays["samples"], asked(mixture, 5, lambda spvae: spvae.sample(6)))

    def test_long_names_are_cut_and_differ(self, mixture, tmp_path):
        found = [given_name([f"z={','.join(['0.125'] * 40)},{last}"]) for last in (1, 2)]
        assert found[0] != found[1] and all(len(name) < 90 and name.startswith("given-z-0.125-0.125") for name in found)
        assert given_name(None) is None and given_name([]) is None

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (["c"], "given is 'c'; accepted are SITE=NUMBER, such as c=2, or SITE=NUMBER,NUMBER,.. for a vector, .*"),
            (["c="], "given is 'c='; accepted are .*"),
            (["=2"], "given is '=2'; accepted are .*"),
            (["c=two"], "given is 'c=two'; accepted are .*"),
            (["z=1,,2"], "given is 'z=1,,2'; accepted are .*"),
            (["c=1", "c=2"], "given has two values of the site 'c'; one is needed"),
            (["c=3"], r"given\['c'\] holds 3, but values must be from the integers from 0 to 2"),
            (["y=3"], "given holds the site 'y', but the latent sites are v, c, z"),
            (["z=1,2"], r"given\['z'\] has shape \[2\]; it must broadcast to .* \[64, 8, 3\]"),
            (["z=nan"], r"given\['z'\] holds nan, but values must be from the real numbers"),
        ],
    )
    def test_refused(self, mixture, tmp_path, given, message):
        with pytest.raises(ValueError, match=f"^{message}$"):
            sample(mixture, given=given, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_on_the_command_line(self, mixture, tmp_path):
        result = invoke("sample", mixture, "-n", 3, "--given", "c=2", "--given", "v=0.5", "--means", "-o", tmp_path)
        assert result.exit_code == 0, result.output
        wanted = asked(mixture, 5, lambda spvae: spvae.sample(3, {"c": 2, "v": 0.5}, means=True))
        assert same(load(tmp_path / "means-given-c-2-v-0.5.npz")["means"], wanted)


class TestCopies:
    """Groups of data that share a draw of the tree, and of the variables that are held."""

    @pytest.mark.parametrize(
        ("hold", "name"), [(["z"], "samples-z-5-copies"), (None, "samples-5-copies"), ([], "samples-5-copies")]
    )
    def test_lines_share_what_is_held(self, digits, tmp_path, monkeypatch, hold, name):
        columns, grid = [], plots.image_grid
        monkeypatch.setattr(
            plots, "image_grid", lambda *args, **options: columns.append(options["columns"]) or grid(*args, **options)
        )
        arrays = sample(digits, num=15, hold=hold, copies=5, out=tmp_path)
        assert names(tmp_path) == [f"{name}.npz", f"{name}.png"] and columns == [5]
        assert same(arrays["samples"], asked(digits, 5, lambda spvae: spvae.sample(15, hold=hold or (), copies=5)))
        assert not same(arrays["samples"], asked(digits, 5, lambda spvae: spvae.sample(15)))
        height, width, _ = imread(tmp_path / f"{name}.png").shape
        assert height < width, "five columns, three lines"

    @pytest.mark.parametrize(("copies", "num"), [(1, 64), (5, 60), (100, 100)])
    def test_without_a_number_lines_are_whole(self, digits, tmp_path, copies, num):
        assert sample(digits, copies=copies, out=tmp_path)["samples"].shape == (num, 1, 8, 8)
        with pytest.raises(ValueError, match=r"^copies is 0; a positive integer is needed$"):
            sample(digits, copies=0, out=tmp_path / "out")

    def test_on_the_command_line(self, mixture, tmp_path):
        """Means of a mixture's component and place follow from these alone: a line has one value."""
        options = ("-n", 12, "--hold", "v", "--hold", "c", "--hold", "z", "--copies", 3, "--means", "-o", tmp_path)
        result = invoke("sample", mixture, *options)
        assert result.exit_code == 0, result.output
        means = load(tmp_path / "means-v-c-z-3-copies.npz")["means"].reshape(4, 3, -1)
        assert np.allclose(means, means[:, :1], atol=1e-5) and not np.allclose(means[0], means[1], atol=1e-3)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--copies", 0), "Invalid value for '--copies'"),
            (("-n", 12, "--copies", 5), "copies is 5, which does not divide num, 12"),
            (("--hold", "z"), "hold names z, but copies is 1; at least 2 data share a draw"),
            (("-n", 4, "--hold", "y", "--copies", 2), "hold names the site 'y', but the latent sites are v, c, z"),
            (("-n", 4, "--hold", "z", "--copies", 2), "hold names z, but not 'v', which the model draws before; name"),
            (("-n", 4, "--given", "c=1", "--copies", 2), "copies is 2, but given fixes c; one of them is needed"),
        ],
    )
    def test_refused(self, mixture, tmp_path, options, message):
        said = refused("sample", mixture, *options, "--out", tmp_path / "out")
        assert said.startswith(message) and not (tmp_path / "out").exists()


class TestReconstruct(VerbTests):
    verb = staticmethod(reconstruct)
    name = "test"

    def test_reconstructions(self, digits, tmp_path):
        arrays = reconstruct(digits, out=tmp_path)
        x = rows(digits)[:16]
        assert same(arrays["original"], x)
        assert same(arrays["reconstruction"], asked(digits, 5, lambda spvae: spvae.reconstruct(x)))

    def test_splits_particles_and_numbers(self, digits, tmp_path):
        arrays = reconstruct(digits, num=3, particles=7, split="train", out=tmp_path)
        assert names(tmp_path) == ["train-particles-7.npz", "train-particles-7.png"]
        x = rows(digits, "train")[:3]
        assert same(arrays["original"], x)
        wanted = asked(digits, 5, lambda spvae: spvae.reconstruct(x, num_particles=7))
        assert same(arrays["reconstruction"], wanted)

    def test_no_more_rows_than_there_are(self, table, tmp_path):
        assert len(reconstruct(table, out=tmp_path)["original"]) == 8, "a tenth of 80 rows, fewer than the default"
        with pytest.raises(ValueError, match=r"^num is 9, but the split test of .* has 8 rows$"):
            reconstruct(table, num=9, out=tmp_path)


class TestImpute(VerbTests):
    verb = staticmethod(impute)
    options = {"observed": "left"}
    name = "test-left"

    def test_completions(self, digits, tmp_path):
        arrays = impute(digits, observed="left", out=tmp_path)
        x = rows(digits)[:8]
        mask = torch.zeros(1, 8, 8, dtype=torch.bool)
        mask[..., :4] = True
        assert same(arrays["original"], x) and same(arrays["observed"], mask.expand(8, 1, 8, 8))
        assert same(arrays["imputed"], asked(digits, 5, lambda spvae: spvae.impute(x, mask, 3)))

    @pytest.mark.parametrize("observed", ["right", "checkerboard", "random:0.3"])
    def test_what_is_seen_stays_and_what_is_not_is_drawn(self, digits, tmp_path, observed):
        arrays = impute(digits, observed=observed, num=5, completions=4, out=tmp_path)
        seen = np.broadcast_to(arrays["observed"], arrays["imputed"].shape)
        original = np.broadcast_to(arrays["original"], arrays["imputed"].shape)
        assert arrays["imputed"].shape == (4, 5, 1, 8, 8)
        assert np.array_equal(arrays["imputed"][seen], original[seen])
        assert (arrays["imputed"][0] != arrays["imputed"][1])[~arrays["observed"]].any()

    def test_means_and_names(self, digits, tmp_path):
        options = {"means": True, "num": 2, "split": "validation"}
        arrays = impute(digits, observed="random:0.5", **options, out=tmp_path)
        assert names(tmp_path) == ["validation-random-0.5-means.npz", "validation-random-0.5-means.png"]
        x, mask = rows(digits, "validation")[:2], torch.from_numpy(arrays["observed"])
        wanted = asked(digits, 5, lambda spvae: spvae.conditional_mean(x, mask))
        assert same(arrays["imputed"], wanted.unsqueeze(0))
        with pytest.raises(ValueError, match="^completions is 3, but the means of all are one completion; leave one"):
            impute(digits, observed="left", means=True, completions=3, out=tmp_path / "other")
        assert not np.array_equal(mask[0], mask[1])

    def test_particles(self, digits, tmp_path):
        arrays = impute(digits, observed="top", particles=7, num=2, out=tmp_path)
        assert names(tmp_path) == ["test-top-particles-7.npz", "test-top-particles-7.png"]
        x, mask = rows(digits)[:2], torch.from_numpy(arrays["observed"])
        assert same(arrays["imputed"], asked(digits, 5, lambda spvae: spvae.impute(x, mask, 3, num_particles=7)))

    def test_a_file_with_a_mask_for_each_row_of_the_split(self, digits, tmp_path):
        masks = np.random.default_rng(0).random((250, 8, 8)) < 0.5
        np.save(tmp_path / "mine.npy", masks)
        arrays = impute(digits, observed=str(tmp_path / "mine.npy"), num=3, out=tmp_path / "out")
        assert np.array_equal(arrays["observed"][:, 0], masks[:3])
        assert names(tmp_path / "out") == ["test-mine-npy.npz", "test-mine-npy.png"]
        np.save(tmp_path / "mine.npy", masks[:3])
        with pytest.raises(ValueError, match=r"of shape \[3, 8, 8\]; accepted are the shapes \[8, 8\], \[250, 8, 8\]"):
            impute(digits, observed=str(tmp_path / "mine.npy"), num=3, out=tmp_path / "out")

    def test_rows_of_the_picture(self, digits, tmp_path, monkeypatch):
        pictures = []
        monkeypatch.setattr(plots, "save", lambda figure, path: pictures.append(figure))
        impute(digits, observed="left", completions=2, out=tmp_path)
        impute(digits, observed="left", completions=1, out=tmp_path)
        titles = [[axes.get_title() for axes in figure.axes] for figure in pictures]
        assert titles == [["original", "seen", "imputed 1", "imputed 2"], ["original", "seen", "imputed"]]
        original, seen = (np.asarray(axes.images[0].get_array()) for axes in pictures[0].axes[:2])
        assert np.array_equal(original[:, :4], seen[:, :4]) and np.ptp(seen[:, 4:8], axis=-1).min() > 0.2

    def test_columns_of_a_table(self, table, tmp_path):
        arrays = impute(table, observed="left", out=tmp_path)
        assert arrays["observed"][0].tolist() == [True, True, False, False, False]
        with pytest.raises(ValueError, match="rows of a table have no top"):
            impute(table, observed="top", out=tmp_path)


class TestInterpolate(VerbTests):
    verb = staticmethod(interpolate)
    name = "test"
    sizes = {"num": 120}  # few paths depend on the noise of their many samples

    def test_paths_between_neighbours(self, digits, tmp_path):
        arrays = interpolate(digits, out=tmp_path)
        x = rows(digits)
        start, end = x[[0, 2, 4, 6]], x[[1, 3, 5, 7]]
        assert same(arrays["start"], start) and same(arrays["end"], end)
        assert same(arrays["path"], asked(digits, 5, lambda spvae: spvae.interpolate(start, end, 10)))
        assert arrays["path"].shape == (10, 4, 1, 8, 8)

    def test_particles(self, digits, tmp_path):
        arrays = interpolate(digits, particles=1, steps=3, num=12, out=tmp_path)
        assert names(tmp_path) == ["test-particles-1.npz", "test-particles-1.png"]
        x = rows(digits)[:24]
        assert same(arrays["path"], asked(digits, 5, lambda spvae: spvae.interpolate(x[::2], x[1::2], 3, 1)))

    def test_numbers(self, table, tmp_path):
        assert interpolate(table, num=1, steps=2, out=tmp_path)["path"].shape == (2, 1, 5)
        assert interpolate(table, out=tmp_path)["path"].shape == (10, 4, 5), "no more pairs than there are"
        with pytest.raises(ValueError, match=r"^num is 5 pairs, but the split test of .* has 8 rows$"):
            interpolate(table, num=5, out=tmp_path)
        with pytest.raises(ValueError, match=r"^steps is 1; an integer of at least 2 is needed$"):
            interpolate(table, steps=1, out=tmp_path)
