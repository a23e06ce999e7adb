# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Bad input on the command line: exit code 2, one sentence on stderr, nothing made."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.cli_cases import QUICK, refused, write_files

REFUSED = [
    ("train nosuch", "'nosuch' is no known data set; give one of "),
    ("train --delta 0", "delta is 0; a positive integer is needed"),
    ("train --delta 9", "delta .* 8.* 9"),
    ("train --particles 0", "particles is 0; a positive integer is needed"),
    ("train --hidden 8,x", "hidden is '8,x'; positive integers separated by commas"),
    ("train --hidden 8,,8", "hidden is '8,,8'; positive integers separated by commas"),
    ("train --hidden 8,0", r"hidden is \[8, 0\]; positive integers"),
    ("train --likelihood bernoulli", "likelihood is 'bernoulli', but the values of digits are not only 0 and 1"),
    (
        "train --likelihood gauss",
        "likelihood is 'gauss'; known are bernoulli, beta, beta-binomial, binomial, categorical, columns, discr",
    ),
    ("train --structure whole --delta 2", "delta is 2, but the structure whole has no cells"),
    ("train --seed -1", "seed is -1; an integer of at least 0"),
    ("train --lr nan", "lr is nan; a positive number"),
    (
        "train --optimiser em --lr 0.1",
        "lr is given, but the optimiser 'em' takes none; it belongs to adam, adamax, adamw, adam-normgrad, so leave ",
    ),
    ("train --optimiser em --schedule linear", "schedule is given, but the optimiser 'em' takes non"),
    ("train --optimiser em --step-size 0.3", "step_size is given, .*; it belongs to online-em, so "),
    ("train --units 2 --smoothing 1", "smoothing is given, but the optimiser 'adam' takes none; it belongs to em, on"),
    ("train --race none --ridge 1", "ridge is given, but the optimiser 'adam' takes none"),
    ("train --alpha nan", "alpha is nan; a finite number"),
    ("train --alpha 1", "alpha is the order of the objective 'renyi'"),
    ("train --gradient dreg --objective elbo", "gradient is 'dreg', which needs the objective"),
    ("train --estimator nvl", "estimator is 'nvl'; did you mean nvil"),
    ("train --estimator 'nvil(width=3)'", "estimator nvil has no option width; its options are hidden_dims"),
    (
        "train --estimator nvil --objective trace-elbo",
        "estimator is 'nvil', which the objectives iwae, elbo, renyi and",
    ),
    (
        "train --estimator nvil --gradient dreg",
        "estimator is 'nvil', for which gradient='dreg' has no use; leave it out",
    ),
    ("train --kl z", "kl is 'z', which needs the objective 'elbo'; objective is 'iwae'"),
    ("train --objective elbo --kl z,y", "kl names the site 'y', but the latent sites are z$"),
    ("train --objective elbo --kl sample,z", "kl is 'sample,z'; sample and analytic stand alone, or names of "),
    ("train --objective elbo --balance", "balance is given, but warmup is 0; it weighs .*, so give one$"),
    ("train --balance --warmup 1", "balance is given with the objective 'iwae'; it belongs to the objective 'elbo' "),
    (
        "train --leaf dvaepp --structure whole",
        "local variables lie on a grid of 7 x 7, but the maps of the guide's pyramid have the sides 4 x 4, 2 x 2, 1 x ",
    ),
    (
        "train --leaf factorized --hidden 8",
        "hidden is given, but the leaf 'factorized' and the guide 'none' have no net",
    ),
    *(
        (
            f"train --leaf {leaf} --{option}",
            f"{option.split()[0]} is given, but the leaf '{leaf}' has no latent variables, so that it has no ",
        )
        for leaf, option in (
            ("factorized", "beta 0.5"),
            ("gaussian", "gradient dreg"),
            ("factorized", "reduce root"),
            ("factorized", "kl analytic --objective elbo"),
        )
    ),
    ("train --leaf dvaepp --activation elu", "activation is given, but the leaf 'dvaepp' and the guide 'dvaepp' have "),
    ("train --leaf 'dvaepp(lokal=normal)'", "leaf dvaepp has no option lokal; its options are .*latent_dim.*local_sh"),
    (
        "train --leaf discrete-vae --prior vamp",
        "the guide DiscreteGuide has no encoder that a VampPrior could use; def",
    ),
    (
        "train --leaf discrete-vae --prior mixture-of-gaussians",
        "the leaf DiscreteVAE draws the site 'z' from the real numbers, but ",
    ),
    ("train --leaf 'discrete-vae(smoothing=soft)'", "smoothing is 'soft'; known are exponential, logistic, power, "),
    (
        "train --leaf discrete-vae --guide normal",
        "the guide NormalGuide draws the site 'z' from the real numbers, but ",
    ),
    ("train --device cuda", "device is 'cuda', but torch finds no CUDA devices here; give --device cpu"),
    ("train --device gpu", "device is 'gpu'; accepted are auto, cpu, cuda"),
    ("train --prior norm", "prior is 'norm'; "),
    ("train --prior nosuch_module:Prior", "prior is 'nosuch_module:Prior', which cannot be imported"),
    ("train --prior os:system", "prior is 'os:system'; a subclass of .*Prior is needed"),
    ("train --guide 'normal(width=3)'", "guide normal has no option width; its options are hidden_dims"),
    ("train --preprocess paper --likelihood binomial", "likelihood is 'binomial', but"),
    ("train {files}/grey.npy --preprocess dequantize", "preprocess is 'dequantize'"),
    ("train --config {files}/none.json", "the file .*none.json cannot be read: No such file"),
    ("train --config {files}/key.json", "the configuration .*key.json has the unknown key 'latentdim'; did"),
    ("train --config {files}/type.json", "the configuration .*type.json: units is 'four'; a positive int"),
    ("train --config {files}/grey.npy", "the file .*grey.npy is no valid JSON"),
    ("train --resume {files}", "--out is given, but --resume continues a run with its own folder"),
    ("train --epochs two", "Invalid value for '--epochs'.*integer"),
    ("train --epochs 1.5", "Invalid value for '--epochs'.*integer"),
    ("train --nosuch", "No such option.* --nosuch"),
    ("train digits surplus", ".*unexpected extra argument.*surplus"),
    ("train mnist", "data_dir is not given, but mnist needs it"),
    ("train mnist --data-dir {files}", "mnist needs the file train-images-idx3-ubyte"),
    ("train {files}/grey.npy --likelihood binomial", "likelihood is 'binomial', but the values of grey.npy are contin"),
    ("train {files}/nan.npy", ".*nan.npy.* 1 NaN or infinite"),
    ("train {files}/none.npy", ".*none.npy has the shape .*must not be empty"),
    ("train {files}/empty.npy", ".*empty.npy cannot be read"),
    ("train {files}/pickle.npy", ".*pickle.npy cannot be read as NumPy arrays of numbers .*objects"),
    ("train {files}/absent.npy", "there is no data file .*absent.npy"),
    ("train {files}/table.npy --depth 9", "depth .*5.* 9"),
    (
        "train {files}/huge.npy --likelihood normal",
        "the bound became (nan|-inf) at step 1.*; nothing was kept; .* data scaled to",
    ),
    ("train --lr 1e30", "the .* became nan at step [0-9]+ .*; nothing was kept; try a smaller lr than 1e"),
    ("train --out {files}", "out is .*data, which exists already; choose another folder, or overwrite it$"),
    ("train --out {files}/nan.npy/run", "the run folder .*run cannot be made: (Not a directory|File exists)$"),
    ("trian", "No such command 'trian'."),
    ("--nosuch", "No such option: --nosuch"),
    ("demo --seed x", "Invalid value for '--seed'"),
    ("demo --seed -1", "seed is -1; an integer of at least 0"),
]


@pytest.mark.parametrize(("line", "message"), REFUSED)
def test_one_sentence_and_nothing_else(tmp_path, line, message):
    files = write_files(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    name, *args = shlex.split(line.format(files=files))
    quick = () if "dvaepp" in line else QUICK  # which has networks of its own
    out = ("--out", tmp_path / "run", *quick) if name == "train" else ()
    said = refused(name, *out, *args, started="nothing was kept" in message)
    assert re.match(message, said), said
    assert sorted(tmp_path.rglob("*")) == before


def test_the_folder_is_needed():
    assert refused("train") == "--out is missing; give the folder to make for the run\n"
