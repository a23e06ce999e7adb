# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The life cycle of a user's own parts in training, in one process and in each of several."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from pyro_spvae import distributed, joining, poon_domingos
from pyro_spvae.infer import CircuitELBO
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import SPVAE
from pyro_spvae.priors import Prior
from pyro_spvae.training.evaluation import evaluate_rows
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.trainer import Trainer
from tests.cli_cases import Forked
from tests.training.cases import same

EPOCHS, STEPS = 4, 12  # of 18 rows, 3 batches of 6
OPTIONS = {"epochs": EPOCHS, "batch_size": 6, "patience": 9, "lr": 0.02, "particles": 2}


class Diary(Prior):
    """Normal, about the mean of the first rows, of a scale that training lowers; writes down what is called."""

    def __init__(self, rows=7):
        super().__init__()
        self.rows = self.wanted_rows = rows
        self.calls = []

    def build(self, leaves, event_shape):
        self.register_buffer("loc", torch.zeros(leaves, *event_shape))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("log_normaliser", torch.zeros(()))

    def start(self, features):
        self.calls.append(("start", len(features)))
        self.loc.copy_(features[: self.rows].mean((0, -1)).unsqueeze(-1).expand_as(self.loc))
        self.wanted_rows = 0

    def advance(self, progress):
        self.calls.append(("advance", progress))
        self.scale.fill_(2.0 - progress)

    def prepare_evaluation(self):
        self.calls.append(("prepare_evaluation", self.training, torch.is_grad_enabled()))
        self.log_normaliser.copy_(self.scale.log() + 3)

    def forward(self):
        return dist.Normal(self.loc, self.scale).to_event(1)


class Chain(Prior):
    """Normal about the state of a chain of each process's own, which every step moves."""

    process_buffers = ("state",)

    def build(self, leaves, event_shape):
        self.register_buffer("state", torch.zeros(leaves, *event_shape))

    def advance(self, progress):
        self.state.mul_(0.8).add_(torch.randn_like(self.state))

    def forward(self):
        return dist.Normal(self.state, 1.0).to_event(1)


class Still(Chain):
    advance = Prior.advance


def make(prior):
    torch.manual_seed(3)
    return SPVAE(poon_domingos((2, 2), 1), 2, likelihood=Normal(), latent_dim=2, hidden_dims=(3,), prior=prior).double()


def rows(number=18):
    return torch.rand(number, 1, 2, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def trainer(prior, path):
    spvae, config = make(prior), FitConfig(**OPTIONS)
    folder = RunFolder(path)
    distributed.on_main(lambda: path.exists() or RunFolder.create(path, {}, {}) and None)
    return Trainer(spvae, rows(), rows(5), config, folder, {"architecture": spvae.architecture()})


def broken(kind, path, after):
    """A trainer that ran to a step, what it saved, and one that went on from there."""
    first, second = (trainer(kind(), path / "broken") for _ in range(2))
    first.run(max_steps=after)
    state = first.state()  # of all processes
    if distributed.is_main():
        first.folder.save("last.pt", state)
    distributed.barrier()
    saved = first.folder.load("last.pt")
    distributed.barrier()
    torch.rand(3)  # what happens in between does not matter
    second.load_state(saved, first.metrics)
    second.run()
    return first, saved, second


def calls(trained, kind):
    return [rest for name, *rest in trained.spvae.leaf.prior.calls if name == kind]


class TestDiary:
    def test_the_calls_of_a_run_and_what_they_left(self, tmp_path):
        made = trainer(Diary(), tmp_path / "run")
        made.run()
        (first, *between, last) = made.spvae.leaf.prior.calls
        assert first == ("start", 7) and last == ("prepare_evaluation", False, False)
        assert between == [("advance", step / STEPS) for step in range(STEPS)]
        best, last = (made.folder.load(name)["model"] for name in ("best.pt", "last.pt"))
        scale = 2.0 - (3 * made.best_epoch - 1) / STEPS
        assert best["leaf.prior.scale"] == pytest.approx(scale) and made.best_epoch > 1
        assert best["leaf.prior.log_normaliser"] == pytest.approx(torch.tensor(scale).log().item() + 3)
        assert last["leaf.prior.log_normaliser"] == 0, "no step computes it"
        assert same(SPVAE.load(made.folder.path).state_dict(), made.spvae.state_dict())

    def test_figures_prepare_once_more_and_by_themselves(self):
        spvae = make(Diary(rows=0))
        evaluate_rows(spvae, rows(), elbo=CircuitELBO(2), samples=3, chunk_size=8, seed=0)
        assert spvae.leaf.prior.calls == [("prepare_evaluation", False, False)]
        assert spvae.leaf.prior.log_normaliser == 3 and spvae.training

    def test_fit_calls_them_too_and_starts_once(self):
        spvae = make(Diary())
        for _ in range(2):
            spvae.fit(rows(), rows(5), **OPTIONS)
        named = [name for name, *_ in spvae.leaf.prior.calls]
        turn = ["advance"] * STEPS + ["prepare_evaluation"]
        assert named == ["start", *turn, *turn]
        assert spvae.leaf.prior.log_normaliser > 3

    @pytest.mark.parametrize("after", [2, 6])
    def test_a_resumed_run_sees_the_same_progress(self, tmp_path, after):
        whole = trainer(Diary(), tmp_path / "whole")
        whole.run()
        first, _, second = broken(Diary, tmp_path, after)
        assert calls(first, "advance") + calls(second, "advance") == calls(whole, "advance")
        assert calls(first, "prepare_evaluation") == [] and len(calls(second, "prepare_evaluation")) == 1
        assert same(second.spvae.state_dict(), whole.spvae.state_dict())
        assert same(second.folder.load("best.pt")["model"], whole.folder.load("best.pt")["model"])


class TestChain:
    @pytest.mark.parametrize("after", [1, 5, 9])
    def test_is_saved_and_goes_on_bit_for_bit(self, tmp_path, after):
        whole = trainer(Chain(), tmp_path / "whole")
        whole.run()
        _, saved, second = broken(Chain, tmp_path, after)
        assert saved["processes"][0].keys() == {"leaf.prior.state"}
        assert saved["processes"][0]["leaf.prior.state"].abs().max() > 0.1
        assert same(second.spvae.state_dict(), whole.spvae.state_dict())
        last, other = (made.folder.load("last.pt") for made in (whole, second))
        assert same(last["model"], other["model"])
        assert torch.equal(other["processes"][0]["leaf.prior.state"], last["model"]["leaf.prior.state"])

    def test_matters(self, tmp_path):
        """Or nothing of the above would be seen."""
        bounds = []
        for kind in (Chain, Still):
            made = trainer(kind(), tmp_path / kind.__name__)
            bounds.append([line["elbo"] for line in made.run()])
        assert all(one != other for one, other in zip(*bounds, strict=True))


def main(folder):
    """A whole run and a broken one, in each of several processes."""
    with joining.processes(torch.device("cpu")):
        whole = trainer(Chain(), folder / "whole")
        chain = []
        advance = whole.spvae.advance
        whole.spvae.advance = lambda progress: (advance(progress), chain.append(state(whole)))
        whole.run()
        _, saved, second = broken(Chain, folder, after=5)
        alone = Trainer(make(Chain()), rows(), rows(5), FitConfig(**OPTIONS))  # without a folder
        alone.run()
        results = {
            "chain": torch.stack(chain),
            "saved": [own["leaf.prior.state"] for own in saved["processes"]],
            "resumed": second.folder.load("last.pt")["processes"][distributed.rank()]["leaf.prior.state"],
            "models": [made.spvae.state_dict() for made in (whole, second, alone)],
        }
        torch.save(results, folder / f"{distributed.rank()}.pt")


def state(made):
    return made.spvae.leaf.prior.state.clone()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of two processes, and what each of them left."""
    folder = tmp_path_factory.mktemp("two")
    Forked(main, folder, number=2).succeed()
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


class TestProcesses:
    def test_each_has_a_chain_of_its_own(self, two):
        chains = [result["chain"] for result in two[1]]
        assert chains[0].shape[0] == STEPS and (chains[0] != chains[1]).all()
        for result in two[1]:
            assert all(torch.equal(own, chain[4]) for own, chain in zip(result["saved"], chains, strict=True))

    def test_each_goes_on_from_its_own_bit_for_bit(self, two):
        for result in two[1]:
            assert torch.equal(result["resumed"], result["chain"][-1])
            assert same(result["models"][1], result["models"][0])

    def test_all_end_with_one_model(self, two):
        for one, other in zip(*(result["models"] for result in two[1]), strict=True):
            assert same(one, other)
            assert same(one, two[1][0]["models"][0])

    def test_another_number_of_processes_cannot_go_on(self, two, tmp_path):
        message = (
            "^the run was started with 2 processes, each with a state of its own, but there are 1 now; resume it w"
        )
        with pytest.raises(ValueError, match=message):
            trainer(Chain(), tmp_path / "run").load_state(RunFolder(two[0] / "broken").load("last.pt"), [])
