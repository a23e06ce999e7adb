# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Data sets in the files of those who published them: axes, ranges, sizes, splits, and damaged files."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_spvae.data import Values, load_data, matlab_arrays, published_sets
from pyro_spvae.data.published_sets import SIZES
from tests.data.cases import damaged, lengths, perhaps_refused, refused, together

TINY = {name: (7, 2, 3) for name in SIZES}
NAMES = sorted(SIZES)
FILE = {
    "static_mnist": "binarized_mnist_valid.amat",
    "omniglot_burda": "chardata.mat",
    "caltech101_silhouettes": "caltech101_silhouettes_28_split1.mat",
    "frey_faces": "frey_rawface.mat",
    "histopathology": "histopathology.pkl",
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The sizes that the files of these tests have; and no process for each of them, which takes its time."""
    monkeypatch.setattr(published_sets, "SIZES", TINY)
    monkeypatch.setattr(matlab_arrays, "_read_apart", lambda content, names: scipy.io.loadmat(io.BytesIO(content)))


def images(rows, height=28, width=28, seed=0):
    return np.random.default_rng(seed).random((rows, height, width))


def by_columns(x):
    """Rows that hold images by columns of pixels, as MATLAB flattens them."""
    return x.transpose(0, 2, 1).reshape(len(x), -1)


def write(folder: Path, name: str) -> list[np.ndarray]:
    """The files of a tiny data set; the images of its splits as they should be read."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "static_mnist":
        parts = [(images(rows, seed=rows) < 0.3).astype(int) for rows in TINY[name]]
        for split, part in zip(("train", "valid", "test"), parts, strict=True):
            np.savetxt(folder / f"binarized_mnist_{split}.amat", part.reshape(len(part), -1), fmt="%d")
        return parts
    if name == "omniglot_burda":
        train, test = images(9), images(3, seed=1)
        content = {"data": by_columns(train).T, "testdata": by_columns(test).T, "target": np.zeros((50, 9))}
        scipy.io.savemat(folder / "chardata.mat", content)
        return [train, test]
    if name == "caltech101_silhouettes":
        parts = [(images(rows, seed=rows) < 0.3).astype(np.uint8) for rows in TINY[name]]
        names = ("train_data", "val_data", "test_data")
        content = {key: 1 - by_columns(part) for key, part in zip(names, parts, strict=True)}
        scipy.io.savemat(folder / FILE[name], content)
        return parts
    if name == "frey_faces":
        faces = (images(12, 28, 20) * 256).astype(np.uint8)
        scipy.io.savemat(folder / FILE[name], {"ff": faces.reshape(12, -1).T})
        return [faces]
    parts, content = histopathology("rows")
    (folder / FILE[name]).write_bytes(content)
    return list(parts.values())


def tensor(x):
    return torch.from_numpy(np.asarray(x, dtype=np.float32)).unsqueeze(1)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_content_and_sizes(tmp_path, name, inside):
    parts = write(tmp_path / name if inside else tmp_path, name)
    data, again, other = (load_data(name, data_dir=tmp_path, seed=seed) for seed in (3, 3, 4))
    assert lengths(data) == [7, 2, 3] and torch.equal(data.validation[:], again.validation[:])
    assert torch.equal(data.train[:], other.train[:]) == (name not in ("omniglot_burda", "frey_faces"))
    assert data.event_shape == ((1, 28, 20) if name == "frey_faces" else (1, 28, 28))
    if name == "frey_faces":
        assert data.values == Values.grey_levels(256)
        assert sorted(map(bytes, together(data).byte().numpy())) == sorted(map(bytes, parts[0]))
    elif name == "omniglot_burda":
        assert data.values == Values(low=0, high=1)
        assert torch.equal(data.test[:], tensor(parts[1]))
        sums = torch.cat([data.train[:], data.validation[:]]).flatten(1).sum(1)
        assert torch.equal(sums.sort().values, tensor(parts[0]).flatten(1).sum(1).sort().values)
    else:
        binary = name != "histopathology"
        assert data.values == (Values.grey_levels(2) if binary else Values(low=0, high=1))
        for x, part in zip((data.train, data.validation, data.test), parts, strict=True):
            assert torch.equal(x[:], tensor(part)), "upright, silhouettes and strokes 1"


@pytest.mark.parametrize("name", NAMES)
def test_refusals(tmp_path, name, monkeypatch):
    with refused(f"^data_dir is not given, but {name} needs it"):
        load_data(name)
    with refused(f"^{name} needs the file .* put it to .*{name}.* .from http"):
        load_data(name, data_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    write(tmp_path, name)
    path = tmp_path / FILE[name]
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2 + 1], whole[:20], b"", b"<html>not found</html>", bytes(range(256)) * 20):
        path.write_bytes(content)
        with refused("anew|damaged|holds", path.name):
            load_data(name, data_dir=tmp_path)
    path.write_bytes(whole)
    monkeypatch.setattr(published_sets, "SIZES", SIZES)
    with refused(f"^{name} has .* rows in its files, but .* are expected; fetch them anew"):
        load_data(name, data_dir=tmp_path)


def histopathology(form):
    """Images in each of the forms in which arrays may be pickled."""
    parts = {key: images(rows, seed=rows) for key, rows in (("training", 7), ("validation", 2), ("test", 3))}
    shaped = {"rows": lambda x: x.reshape(len(x), -1), "images": lambda x: x, "list": list}[form]
    return parts, pickle.dumps({key: shaped(part) for key, part in parts.items()}, protocol=2)


def archive(path, content, name="histopathology.pkl"):
    with tarfile.open(path, "w:gz") as file:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("form", ["rows", "images", "list"])
@pytest.mark.parametrize("packed", [False, True])
def test_histopathology_packed_and_unpacked(tmp_path, form, packed):
    parts, content = histopathology(form)
    if packed:
        archive(tmp_path / "histopathology.pkl.tar.gz", content, "folder/histopathology.pkl")
    else:
        (tmp_path / "histopathology.pkl").write_bytes(content)
    before = sorted(tmp_path.iterdir())
    data = load_data("histopathology", data_dir=tmp_path)
    for x, part in zip((data.train, data.validation, data.test), parts.values(), strict=True):
        assert torch.equal(x[:], tensor(part))
    assert sorted(tmp_path.iterdir()) == before, "nothing is unpacked on disk"


def test_archives_that_are_of_no_use(tmp_path):
    path, (_, content) = tmp_path / "histopathology.pkl.tar.gz", histopathology("rows")
    archive(path, content)
    whole = path.read_bytes()
    archive(path, content, "other.pkl")
    other = path.read_bytes()
    archive(path, b"no pickle")
    broken = (b"", b"<html>", whole[: len(whole) // 2], damaged(whole, 40, b"#" * 40, 0))
    for useless, message in (
        (other, "the archive .* holds no file histopathology.pkl; remove it and fetch it anew"),
        (path.read_bytes(), "the file .*histopathology.pkl.tar.gz is damaged"),
        *((content, "the (file|archive)") for content in broken),
    ):
        path.write_bytes(useless)
        with refused(f"^{message}", path):
            load_data("histopathology", data_dir=tmp_path)


def test_where_the_files_come_from():
    """Addresses and digests that others can check: of the author's notes, and of TensorFlow Datasets."""
    (file,) = published_sets.HISTOPATHOLOGY.files
    assert file.address.endswith("/raw/master/datasets/histopathologyGray/histopathology.pkl.tar.gz")
    for file in published_sets.STATIC_MNIST.files:
        assert file.address.endswith(f"/binarized_mnist/{file.name}") and file.sha256 is not None
        assert len(bytes.fromhex(file.sha256)) == 32


# SciPy reads the files of the other sets, in a process that may end: see the tests of matlab_arrays
@given(
    st.sampled_from(["static_mnist", "histopathology"]), st.integers(0, 2**20), st.binary(max_size=16), st.booleans()
)
def test_only_refusals_leave_the_readers(tmp_path_factory, name, place, noise, cut):
    folder = tmp_path_factory.getbasetemp() / "published"
    path = folder / FILE[name]
    write(folder, name)
    place = place if place % 2 else place % 400  # half of them in what describes the arrays
    path.write_bytes(damaged(path.read_bytes(), place, noise, cut))
    with perhaps_refused(name, path.name):
        assert torch.isfinite(load_data(name, data_dir=folder).train[:]).all()


@given(st.sampled_from(["static_mnist", "histopathology"]), st.binary(max_size=300))
def test_noise_is_refused(tmp_path_factory, name, content):
    folder = tmp_path_factory.getbasetemp() / "noise"
    write(folder, name)
    (folder / FILE[name]).write_bytes(content)
    with refused(f"{name}|{FILE[name]}"):
        load_data(name, data_dir=folder)


@pytest.mark.parametrize(
    ("name", "key"), [("omniglot_burda", "data"), ("caltech101_silhouettes", "train_data"), ("frey_faces", "ff")]
)
def test_matrices_that_do_not_fit(tmp_path, name, key):
    write(tmp_path, name)
    content = scipy.io.loadmat(tmp_path / FILE[name])
    whole = content[key]
    unfit = [np.zeros((0, 3)), np.zeros((2, 2, 2)), "text", whole[:-1, :-1], whole * 1.5, whole + np.nan, whole - 1.0]
    for array in [*unfit, np.full(whole.shape, 1e300), np.full(whole.shape, 2.0), whole * 1j]:
        scipy.io.savemat(tmp_path / FILE[name], {x: content[x] for x in content if x[0] != "_"} | {key: array})
        with refused("holds no array|is damaged, or another file|anew", FILE[name].split(".")[0][:4]):
            load_data(name, data_dir=tmp_path)


def test_the_customary_sizes():
    assert SIZES["static_mnist"] == (50000, 10000, 10000) and sum(SIZES["frey_faces"]) == 1965
    assert SIZES["omniglot_burda"] == (23000, 1345, 8070) and SIZES["caltech101_silhouettes"] == (4100, 2264, 2307)
    assert SIZES["histopathology"] == (6800, 2000, 2000)
