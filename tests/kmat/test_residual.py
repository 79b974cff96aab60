"""Transported residuals: known answers, what is trained, and how often FGW is solved."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

import fgwot
from kmat.errors import UserError
from kmat.methods import CoOpConfig, KMaTConfig, ResidualConfig
from kmat.methods.base import Batch, Setting
from kmat.methods.kmat import transport_plan
from kmat.methods.residual import couple, transport
from kmat.modalities import MODALITIES
from kmat.reports import residuals
from kmat.runs.folder import RunDir
from kmat.runs.schedule import Schedule
from kmat.runs.training import fit


def unit(*shape, seed=0):
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def setting(tiny, shapes, cache):
    return Setting(tiny, shapes, cache, seed=1)


@pytest.fixture
def batch():
    return Batch(unit(4, 16), torch.tensor([0, 1, 1, 0]))


def test_identical_manifolds_with_a_sharp_coupling_give_the_high_end():
    described, learned = unit(5, 16), unit(5, 16, seed=1)
    coupling = couple(described, described, alpha=0.1, epsilon=0.01)
    torch.testing.assert_close(coupling, torch.eye(5, dtype=torch.float64) / 5, atol=1e-9, rtol=0)
    torch.testing.assert_close(transport(learned - described, described, coupling, 1.0), learned)


def test_the_coupling_finds_a_permutation_and_carries_residuals_along_it():
    described, learned = unit(5, 16), unit(5, 16, seed=1)
    order = torch.tensor([3, 0, 4, 1, 2])
    coupling = couple(described, described[order], alpha=0.1, epsilon=0.01)
    moved = transport(learned - described, described[order], coupling, 1.0)
    torch.testing.assert_close(moved, learned[order])


def test_a_blurred_coupling_carries_the_mean():
    described, low, learned = unit(4, 16), unit(4, 16, seed=2), unit(4, 16, seed=1)
    coupling = couple(described, low, alpha=0.1, epsilon=1000)
    expected = F.normalize(low + (learned - described).mean(dim=0), dim=-1)
    torch.testing.assert_close(transport(learned - described, low, coupling, 1.0), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("n", "m"), [(5, 3), (3, 5)])
def test_classes_need_not_be_as_many(n, m):
    """By the formula, class by class; marginals are uniform on both sides."""
    high, low, residuals = unit(n, 16), unit(m, 16, seed=1), 0.5 * unit(n, 16, seed=2)
    coupling = couple(high, low, alpha=0.1, epsilon=0.1)
    torch.testing.assert_close(coupling.sum(1), torch.full((n,), 1 / n, dtype=torch.float64))
    torch.testing.assert_close(coupling.sum(0), torch.full((m,), 1 / m, dtype=torch.float64))
    moved = transport(residuals, low, coupling, 0.7)
    for j in range(m):
        w = low[j].numpy() + 0.7 * sum(float(coupling[i, j]) * m * residuals[i].numpy() for i in range(n))
        np.testing.assert_allclose(moved[j], w / np.linalg.norm(w), atol=1e-6)


def test_merged_classes_get_the_mean_residual_of_their_parts():
    high, residuals = unit(4, 16), 0.5 * unit(4, 16, seed=2)
    low = F.normalize(torch.stack([high[0] + high[1], high[2] + high[3]]), dim=-1)
    coupling = couple(high, low, alpha=0.1, epsilon=0.01)
    expected = F.normalize(low + torch.stack([residuals[:2].mean(0), residuals[2:].mean(0)]), dim=-1)
    torch.testing.assert_close(transport(residuals, low, coupling, 1.0), expected, atol=1e-4, rtol=0)


def test_it_is_the_coupling_that_k_mat_would_find():
    high, low = unit(4, 16), unit(4, 16, seed=1)
    torch.testing.assert_close(couple(high, low, 0.1, 0.1), transport_plan(KMaTConfig(), high, low))


def described(setting, modality):
    features = [F.normalize(setting.backbone.encode_texts(s), dim=-1) for s in setting.task.descriptions[modality]]
    return F.normalize(torch.stack([f.mean(0) for f in features]), dim=-1)


def test_text_features_follow_the_rule_and_have_unit_length(setting):
    method = ResidualConfig().build(setting)
    high = method.text_features("high")
    p_high, p_low = (described(setting, m) for m in MODALITIES)
    coupling = couple(p_high, p_low, 0.1, 0.1)
    torch.testing.assert_close(method.coupling, coupling, atol=1e-5, rtol=0)
    expected = F.normalize(p_low + (2 * coupling.T).float() @ (high - p_high), dim=-1)
    torch.testing.assert_close(method.text_features("low"), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(method.text_features("low").norm(dim=-1), torch.ones(2))


def test_without_residuals_the_low_end_is_its_descriptions(setting):
    method = ResidualConfig(scale=0).build(setting)
    torch.testing.assert_close(method.text_features("low"), described(setting, "low"))


def trained(method, tmp_path, name):
    images, labels, schedule = unit(1, 12, 16), torch.arange(12) % 2, Schedule(epochs=3, lr=0.1)
    fit(method, images, labels, schedule, 1, tmp_path / name, tmp_path / f"{name}.log")
    return method.text_features("high").detach()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ResidualConfig(lambda_anc=3), KMaTConfig(lambda_anc=3, lambda_fgw=0)),
        (ResidualConfig(lambda_anc=0), CoOpConfig(csc=True)),
    ],
)
def test_the_high_end_is_that_of_k_mat_without_fgw_or_of_coop(setting, tmp_path, ours, theirs):
    a, b = (trained(method.build(setting), tmp_path, name) for name, method in (("ours", ours), ("theirs", theirs)))
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    assert not torch.allclose(a, ours.build(setting).text_features("high"), atol=1e-4), "it has learned"


def test_nothing_of_the_low_end_is_learned(setting, batch):
    method = ResidualConfig().build(setting)
    assert [tuple(p.shape) for p in method.parameters()] == [(2, 4, 32)], "the high end's contexts alone"
    sum(method.loss(batch).values()).backward()
    assert not method.coupling.requires_grad
    assert not method.described_high.requires_grad
    # The loss sees nothing of the low end: with other sentences there the gradient is the same.
    other = dict(setting.task.descriptions) | {"low": (("a dark shape.",), ("a photo of the edge.",))}
    twin = ResidualConfig().build(
        dataclasses.replace(setting, task=dataclasses.replace(setting.task, descriptions=other))
    )
    sum(twin.loss(batch).values()).backward()
    assert torch.equal(*(next(m.parameters()).grad for m in (method, twin)))
    assert not torch.equal(method.text_features("low"), twin.text_features("low"))


def test_fgw_is_solved_once(setting, tmp_path, monkeypatch):
    solved = []

    def counted(*args, **options):
        solved.append(options)
        return solve(*args, **options)

    solve = fgwot.fused_gromov_wasserstein
    monkeypatch.setattr(fgwot, "fused_gromov_wasserstein", counted)
    method = ResidualConfig().build(setting)
    trained(method, tmp_path, "run")
    for _ in range(3):
        method.text_features("low")
    assert solved == [{"alpha": 0.1, "epsilon": 0.1}]


def test_a_coupling_that_does_not_converge_is_said(monkeypatch, capsys):
    def hasty(*args, **options):
        return solve(*args, **options, max_iter=1, tol=1e-16)

    solve = fgwot.fused_gromov_wasserstein
    monkeypatch.setattr(fgwot, "fused_gromov_wasserstein", hasty)
    couple(unit(5, 16), unit(5, 16, seed=1), 0.9, 0.01)
    assert "the coupling of the descriptions did not converge" in capsys.readouterr().err


def test_what_is_carried_is_kept_with_the_run(setting):
    assert set(ResidualConfig().build(setting).state_dict()) == {
        "contexts.vectors.0",
        "described_high",
        "described_low",
        "coupling",
    }


def test_it_needs_descriptions_even_without_an_anchor(setting):
    bare = dataclasses.replace(setting, task=dataclasses.replace(setting.task, descriptions=None))
    with pytest.raises(UserError, match="Residual transport needs descriptions of manifest's classes"):
        ResidualConfig(lambda_anc=0).build(bare)


@pytest.mark.parametrize("option", [{"epsilon": 0}, {"alpha": 2}, {"scale": -1}, {"lambda_anc": -1}, {"n_ctx": 0}])
def test_options_out_of_range(option):
    with pytest.raises(UserError, match=f"--{next(iter(option)).replace('_', '-')}"):
        ResidualConfig(**option)


def test_a_finished_run_is_taken_apart(kmat, options, tmp_path, monkeypatch, capsys):
    for arguments in (("residual",), ("coop",)):
        assert (
            kmat("train", *arguments, *options, "--cache", tmp_path / "cache", "--out", tmp_path / arguments[0])[0] == 0
        )
    arguments = ["kmat.reports.residuals", str(tmp_path / "residual"), str(tmp_path / "coop")]
    monkeypatch.setattr("sys.argv", arguments)
    residuals.main()
    out = capsys.readouterr().out
    assert ": residual, 1 runs" in out
    assert out.count("| round_bright | ") == 1
    found = residuals.dissect(RunDir(tmp_path / "residual"))
    torch.testing.assert_close(found.shares.sum(dim=0), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(found.alike.diagonal(), torch.ones(2), atol=1e-5, rtol=0)
    assert 0 <= found.common <= 1 + 1e-6


def test_the_report_draws_the_way_from_descriptions_to_classifiers(kmat, options, tmp_path):
    assert kmat("train", "residual", *options, "--out", "runs/one")[0] == 0
    assert kmat("report", "runs/one")[0] == 0
    page = (tmp_path / "runs" / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count("<h3>Text embeddings: Residual transport, shots 4, epochs 2</h3>") == 1
