import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from kmat.errors import UserError
from kmat.methods import BiomedCoOpConfig, CoCoOpConfig, CoOpConfig, KgCoOpConfig, KMaTConfig, ZeroShotConfig
from kmat.methods.base import Batch, Setting
from kmat.methods.kmat import discrepancy_weight, transport_plan
from kmat.methods.losses import anchor_loss
from kmat.modalities import MODALITIES


@pytest.fixture
def setting(tiny, shapes, cache):
    return Setting(tiny, shapes, cache, seed=1)


@pytest.fixture
def batch():
    images = F.normalize(torch.randn(4, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    return Batch(images, torch.tensor([0, 1, 1, 0]))


def numpy_cross_entropy(batch, text, scale):
    logits = scale * batch.images.numpy().astype(np.float64) @ text.detach().numpy().astype(np.float64).T
    log_softmax = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    log_softmax -= logits.max(1, keepdims=True)
    return -np.mean([log_softmax[i, label] for i, label in enumerate(batch.labels.tolist())])


def unit_rows(array):
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


def test_zero_shot_template_is_the_encoded_sentence(setting):
    method = ZeroShotConfig(template="a {modality} photo of a {name}.").build(setting)
    expected = F.normalize(setting.backbone.encode_texts(["a low photo of a square dark."]), dim=-1)[0]
    torch.testing.assert_close(method.text_features("low")[1], expected)
    assert not list(method.parameters())


def test_zero_shot_ensemble_is_the_renormalised_mean_of_unit_features(setting):
    method = ZeroShotConfig("descriptions").build(setting)
    for modality, label in ((m, i) for m in MODALITIES for i in range(2)):
        features = setting.backbone.encode_texts(setting.task.descriptions[modality][label]).numpy()
        expected = unit_rows(unit_rows(features).mean(0))
        np.testing.assert_allclose(method.text_features(modality)[label], expected, atol=1e-6)


def test_zero_shot_without_descriptions_says_so_and_uses_the_template(setting, capsys):
    bare = dataclasses.replace(setting, task=dataclasses.replace(setting.task, descriptions=None))
    method = ZeroShotConfig("descriptions").build(bare)
    assert "has no descriptions" in capsys.readouterr().err
    assert torch.equal(method.text_features("high"), ZeroShotConfig().build(bare).text_features("high"))


@pytest.mark.parametrize("csc", [False, True])
def test_coop_is_cross_entropy_of_one_prompt_set_for_both_modalities(setting, batch, csc):
    method = CoOpConfig(csc=csc).build(setting)
    loss = method.loss(batch)
    assert list(loss) == ["ce"]
    expected = numpy_cross_entropy(batch, method.text_features("high"), setting.backbone.logit_scale)
    assert float(loss["ce"].detach()) == pytest.approx(expected, rel=1e-5)
    assert torch.equal(method.text_features("high"), method.text_features("low"))


def test_coop_starts_from_words(setting):
    method = CoOpConfig(init_words="a photo of the").build(setting)
    expected = F.normalize(setting.backbone.encode_texts(["a photo of the round bright."]), dim=-1)[0]
    torch.testing.assert_close(method.text_features("high")[0], expected)


def test_kgcoop_terms_follow_their_formulas(setting, batch):
    method = KgCoOpConfig(weight=3.0, init_words="a photo of the", template="a square {name}.").build(setting)
    expected = setting.backbone.encode_texts(["a square round bright.", "a square square dark."])
    torch.testing.assert_close(method.template, F.normalize(expected, dim=-1))
    method.template = template = batch.images[2:]  # far from the prompts, which the tiny model's own texts are not
    loss = {name: float(value.detach()) for name, value in method.loss(batch).items()}
    w = method.text_features("high")
    assert loss["ce"] == pytest.approx(numpy_cross_entropy(batch, w, setting.backbone.logit_scale), rel=1e-5)
    cosines = [
        np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))
        for a, b in zip(w.tolist(), template.tolist(), strict=True)
    ]
    assert loss["kg"] == pytest.approx(3.0 * (1 - np.mean(cosines)), rel=1e-5)


def test_cocoop_shifts_the_context_of_each_image(setting, batch):
    method = CoCoOpConfig(init_words="a photo of the").build(setting)
    state = {name: value.numpy().astype(np.float64) for name, value in method.state_dict().items()}
    assert {name: value.shape for name, value in state.items()} == {
        "contexts.vectors.0": (1, 4, 32),
        "meta_net.0.weight": (32, 16),
        "meta_net.0.bias": (32,),
        "meta_net.2.weight": (32, 32),
        "meta_net.2.bias": (32,),
    }
    text = method.conditional_text_features(batch.images, "high")
    for b, x in enumerate(batch.images.numpy().astype(np.float64)):
        hidden = np.maximum(state["meta_net.0.weight"] @ x + state["meta_net.0.bias"], 0)
        shift = state["meta_net.2.weight"] @ hidden + state["meta_net.2.bias"]
        context = torch.from_numpy(state["contexts.vectors.0"][0] + shift).float()
        alone = setting.backbone.encode_context(context.expand(2, -1, -1), method.frame(("high",)))
        torch.testing.assert_close(text[b], F.normalize(alone, dim=-1))
    log_p = [
        np.log(numpy_softmax(setting.backbone.logit_scale * x.numpy()[None] @ t.detach().numpy().T))
        for x, t in zip(batch.images, text, strict=True)
    ]
    expected = -np.mean([log_p[b][0, label] for b, label in enumerate(batch.labels.tolist())])
    assert float(method.loss(batch)["ce"].detach()) == pytest.approx(expected, rel=1e-5)


def test_cocoop_is_seeded_chunked_and_has_no_text_features_without_an_image(setting, monkeypatch):
    before = torch.random.get_rng_state()
    method, twin = (CoCoOpConfig(init_words=None).build(setting) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    other = CoCoOpConfig(init_words=None).build(dataclasses.replace(setting, seed=2))
    weights = [m.meta_net[0].weight for m in (method, twin, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    images = random_unit(5, 16)
    whole = method.logits(images, "low")
    monkeypatch.setattr("kmat.methods.cocoop.CHUNK", 2)
    torch.testing.assert_close(method.logits(images, "low"), whole)
    with pytest.raises(NotImplementedError, match="depend on the image"):
        method.text_features("low")


def random_unit(*shape):
    return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(1)), dim=-1)


def numpy_softmax(logits):
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def test_biomedcoop_terms_follow_their_formulas(setting, batch):
    method = BiomedCoOpConfig(lambda_s=3.0, lambda_k=2.0, tau=1.0, init_words=None).build(setting)
    expected = [setting.backbone.encode_texts(texts) for texts in setting.task.descriptions["high"]]
    torch.testing.assert_close(method.descriptions, F.normalize(torch.stack(expected), dim=-1))
    method.descriptions = random_unit(2, 7, 16)  # the tiny model's own texts are all alike
    loss = {name: float(value.detach()) for name, value in method.loss(batch).items()}

    w, f, x = (
        tensor.detach().numpy().astype(np.float64)
        for tensor in (method.text_features("high"), method.descriptions, batch.images)
    )
    scale = setting.backbone.logit_scale
    assert loss["ce"] == pytest.approx(numpy_cross_entropy(batch, torch.from_numpy(w).float(), scale), rel=1e-5)
    assert loss["sccm"] == pytest.approx(3.0 * np.mean((w - unit_rows(f.mean(1))) ** 2), rel=1e-5)
    scores = np.array([np.mean([max(scale * x[b] @ f[c, j] for c in range(2)) for b in range(4)]) for j in range(7)])
    z = (scores - np.median(scores)) / np.median(np.abs(scores - np.median(scores)))  # as published
    kept = np.abs((z - z.mean()) / z.std(ddof=1)) <= 1.0
    assert 0 < kept.sum() < 7
    teacher = numpy_softmax(scale * x @ unit_rows(f[:, kept].mean(1)).T)
    student = numpy_softmax(scale * x @ w.T)
    divergence = sum(teacher[b, c] * np.log(teacher[b, c] / student[b, c]) for b in range(4) for c in range(2))
    assert loss["kdsp"] == pytest.approx(2.0 * divergence / (4 * 2), rel=1e-4)


def test_biomedcoop_needs_descriptions_equally_many_per_class(setting):
    bare = dataclasses.replace(setting, task=dataclasses.replace(setting.task, descriptions=None))
    with pytest.raises(UserError, match="BiomedCoOp needs descriptions of manifest's classes"):
        BiomedCoOpConfig().build(bare)
    uneven = dict.fromkeys(MODALITIES, (("one.",), ("one.", "two.")))
    task = dataclasses.replace(setting.task, descriptions=uneven)
    with pytest.raises(UserError, match="equally many per class, not 1, 2"):
        BiomedCoOpConfig().build(dataclasses.replace(setting, task=task))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("renormalise", [True, False])
def test_kmat_terms_follow_their_formulas(setting, batch, normalise, renormalise):
    config = KMaTConfig(lambda_anc=3.0, lambda_fgw=2.0, normalise=normalise, renormalise_prototypes=renormalise)
    method = config.build(setting)
    loss = {name: float(value.detach()) for name, value in method.loss(batch).items()}
    assert list(loss) == ["ce", "anc", "fgw"]

    w = method.encode(MODALITIES).detach().numpy().astype(np.float64)
    text = torch.from_numpy(unit_rows(w[0]).astype(np.float32))
    assert loss["ce"] == pytest.approx(numpy_cross_entropy(batch, text, setting.backbone.logit_scale), rel=1e-5)
    w = unit_rows(w) if normalise else w

    prototypes = np.zeros_like(w)
    for m, modality in enumerate(MODALITIES):
        for i, sentences in enumerate(setting.task.descriptions[modality]):
            features = setting.backbone.encode_texts(sentences).numpy().astype(np.float64)
            mean = (unit_rows(features) if normalise else features).mean(0)
            prototypes[m, i] = unit_rows(mean) if renormalise else mean
    anchor = sum(np.linalg.norm(w[m, i] - prototypes[m, i]) ** 2 for m in range(2) for i in range(2)) / (2 * 2)
    assert loss["anc"] == pytest.approx(3.0 * anchor, rel=1e-4)

    plan = method.fgw.plan.numpy()
    d = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in w]
    linear = (np.linalg.norm(w[0][:, None] - w[1][None], axis=-1) ** 2 * plan).sum()
    gap = np.abs(d[0][:, None, :, None] - d[1][None, :, None, :]) ** 2  # i, j, k, l
    fgw = 0.9 * linear + 0.1 * np.einsum("ijkl,ij,kl", gap, plan, plan)
    assert loss["fgw"] == pytest.approx(2.0 * fgw, rel=1e-4)


def test_kmat_entropic_value_differs_from_its_cost_but_not_in_gradient(setting, batch):
    gradients, values = [], []
    for kind in ("cost", "value"):
        method = KMaTConfig(lambda_anc=0, fgw_value=kind).build(setting)
        loss = method.loss(batch)["fgw"]
        loss.backward()
        values.append(float(loss.detach()))
        gradients.append(method.contexts.vectors[1].grad)
    assert values[1] < values[0]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-8)


def test_switches_are_independent(setting, batch):
    assert list(KMaTConfig(lambda_anc=0, lambda_fgw=0).build(setting).loss(batch)) == ["ce"]
    assert list(KMaTConfig(lambda_anc=1, lambda_fgw=0).build(setting).loss(batch)) == ["ce", "anc"]
    assert list(KMaTConfig(lambda_anc=0, lambda_fgw=1).build(setting).loss(batch)) == ["ce", "fgw"]
    assert [len(v) for v in KMaTConfig(csc=False, msc=True).build(setting).contexts.vectors] == [1, 1]
    assert [len(v) for v in KMaTConfig(csc=True, msc=False).build(setting).contexts.vectors] == [2]


def test_fgw_moves_the_low_end_only_unless_told_otherwise(setting, batch):
    for detach in (True, False):
        method = KMaTConfig(lambda_anc=0, detach_high=detach).build(setting)
        method.loss(batch)["fgw"].backward()
        high, low = (vectors.grad.abs().sum() for vectors in method.contexts.vectors)
        assert low > 0
        assert bool(high == 0) is detach


def test_proximal_coupling_is_sharper(setting):
    w = F.normalize(torch.randn(2, 2, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    plans = {}
    for coupling in ("entropic", "proximal"):
        method = KMaTConfig(lambda_anc=0, coupling=coupling).build(setting)
        method.fgw_loss(w)
        plans[coupling] = method.fgw.plan
    assert plans["proximal"].max() > plans["entropic"].max()


def test_diagonal_coupling_sends_each_class_to_itself(setting, batch):
    config = KMaTConfig(lambda_anc=0, lambda_fgw=2.0, coupling="diagonal")
    method = config.build(setting)
    high, low = (F.normalize(method.encode((m,))[0], dim=-1).detach().double() for m in MODALITIES)
    assert torch.equal(transport_plan(config, high, low), torch.diag(torch.full((2,), 0.5, dtype=torch.float64)))
    a, b = high.numpy(), low.numpy()
    linear = sum(np.linalg.norm(a[i] - b[i]) ** 2 for i in range(2)) / 2
    pairs = [(i, k) for i in range(2) for k in range(2)]
    quadratic = sum((np.linalg.norm(a[i] - a[k]) - np.linalg.norm(b[i] - b[k])) ** 2 for i, k in pairs) / 4
    assert float(method.loss(batch)["fgw"].detach()) == pytest.approx(2 * (0.9 * linear + 0.1 * quadratic), rel=1e-4)
    assert method.diagnostics() == {"fgw_unconverged_steps": 0}
    with pytest.raises(UserError, match="--coupling diagonal needs one class to each: there are 3 and 2"):
        transport_plan(config, torch.eye(3), torch.eye(2, 3))


def low_anchor(method):
    return float(anchor_loss(F.normalize(method.encode(("low",)), dim=-1), method.prototypes[1:]).detach())


def test_starts_of_the_low_end(setting):
    random, same, fitted = (KMaTConfig(low_start=start).build(setting) for start in ("random", "same", "anchor"))
    high, low = random.contexts.vectors
    assert not torch.equal(high, low)
    assert torch.equal(same.contexts("low"), high)
    assert torch.equal(fitted.contexts("high"), high)
    floor = float(anchor_loss(F.normalize(fitted.prototypes, dim=-1), fitted.prototypes))
    assert low_anchor(fitted) - floor < 0.2 * (low_anchor(random) - floor)
    assert fitted.contexts.vectors[1].grad is None


def test_the_high_end_is_learned_first_and_the_low_end_starts_from_it(setting, batch):
    method = KMaTConfig(low_start="high").build(setting)
    high, low = method.contexts.vectors
    first = method.loss(batch)
    assert list(first) == ["ce", "anc"]
    sum(first.values()).backward()
    assert high.grad.abs().sum() > 0
    assert low.grad is None
    plain = KMaTConfig().build(setting)
    sum(plain.loss(batch).values()).backward()
    torch.testing.assert_close(high.grad, plain.contexts.vectors[0].grad)
    high.grad = None
    with torch.no_grad():
        high += 0.5
    method.next_stage()
    assert torch.equal(low, high)
    second = method.loss(batch)
    assert list(second) == ["ce", "anc", "fgw"]
    sum(second.values()).backward()
    assert high.grad is None
    assert low.grad.abs().sum() > 0


@pytest.mark.parametrize("coupling", ["entropic", "proximal", "diagonal"])
@pytest.mark.parametrize("normalise", [True, False])
def test_discrepancy_weight_follows_its_formula(coupling, normalise):
    """By central differences of the printed cost, with the coupling held fixed at the prototypes."""
    config = KMaTConfig(lambda_anc=3.0, coupling=coupling, normalise=normalise)
    generator = torch.Generator().manual_seed(3)
    prototypes = 0.3 * torch.randn(2, 3, 5, dtype=torch.float64, generator=generator)
    errors = torch.tensor([0.01, 0.02, 0.06], dtype=torch.float64)
    weight = discrepancy_weight(config, prototypes, errors)

    high, anchor = prototypes.numpy()
    high, anchor = (unit_rows(high), unit_rows(anchor)) if normalise else (high, anchor)
    plan = transport_plan(config, torch.from_numpy(high), torch.from_numpy(anchor)).numpy()

    def cost(low):
        low = unit_rows(low) if normalise else low
        d_high, d_low = (np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (high, low))
        gap = (d_high[:, None, :, None] - d_low[None, :, None, :]) ** 2
        linear = (np.linalg.norm(high[:, None] - low[None], axis=-1) ** 2 * plan).sum()
        return 0.9 * linear + 0.1 * np.einsum("ijkl,ij,kl", gap, plan, plan)

    squares = 0.0
    for index in np.ndindex(3, 5):
        step = np.zeros((3, 5))
        step[index] = 1e-5
        squares += ((cost(anchor + step) - cost(anchor - step)) / 2e-5) ** 2
    assert weight == pytest.approx(3.0 / 3 * np.sqrt(0.09 / squares), rel=1e-4)


def test_discrepancy_weight_is_what_the_loss_is_weighed_by(setting, batch):
    method = KMaTConfig(fgw_unit="discrepancy", lambda_fgw=2.0).build(setting)
    features = [F.normalize(setting.backbone.encode_texts(texts), dim=-1) for texts in setting.task.descriptions["low"]]
    errors = torch.stack([((f - f.mean(0)) ** 2).sum() / (len(f) * (len(f) - 1)) for f in features])
    expected = 2 * discrepancy_weight(method.config, method.prototypes, errors)
    assert float(method.lambda_fgw) == pytest.approx(expected, rel=1e-5)
    weighed, plain = (each.loss(batch)["fgw"].detach() for each in (method, KMaTConfig().build(setting)))
    assert float(weighed / plain) == pytest.approx(expected, rel=1e-4)
    assert "lambda_fgw" in method.state_dict()


def test_discrepancy_weight_needs_a_spread_and_a_pull(setting):
    lone = {m: tuple(texts[:1] for texts in setting.task.descriptions[m]) for m in MODALITIES}
    task = dataclasses.replace(setting.task, descriptions=lone)
    with pytest.raises(UserError, match="two sentences per class"):
        KMaTConfig(fgw_unit="discrepancy").build(dataclasses.replace(setting, task=task))
    alike = torch.eye(3).expand(2, 3, 3)
    with pytest.raises(UserError, match="FGW does not move these prototypes"):
        discrepancy_weight(KMaTConfig(coupling="diagonal"), alike, torch.ones(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low_start": "high", "msc": False}, "--low-start high: without --msc"),
        ({"low_start": "anchor", "msc": False}, "--low-start anchor: without --msc"),
        ({"low_start": "anchor", "lambda_anc": 0}, "--low-start anchor: there is none with --lambda-anc 0"),
        ({"low_start": "high", "detach_high": False}, "with --detach-high"),
        ({"low_start": "high", "lambda_anc": 0, "lambda_fgw": 0}, "and the anchor or FGW"),
        ({"fgw_unit": "discrepancy", "lambda_anc": 0}, "--fgw-unit discrepancy weighs FGW against the anchor"),
    ],
)
def test_options_that_exclude_each_other_say_so(options, message):
    with pytest.raises(UserError, match=message):
        KMaTConfig(**options)


def test_steps_whose_coupling_did_not_converge_are_counted(setting, batch):
    method = KMaTConfig(lambda_anc=0, coupling="proximal", max_iter=1).build(setting)
    method.loss(batch)
    method.loss(batch)
    assert method.diagnostics() == {"fgw_unconverged_steps": 2}
    assert method.diagnostics() == {"fgw_unconverged_steps": 0}, "counted afresh each epoch"


def test_anchor_without_descriptions_is_a_clear_error(setting):
    bare = dataclasses.replace(setting, task=dataclasses.replace(setting.task, descriptions=None))
    with pytest.raises(UserError, match=r"--descriptions FILE.*--lambda-anc 0"):
        KMaTConfig().build(bare)
    KMaTConfig(lambda_anc=0).build(bare)


def test_state_holds_what_is_learned_and_the_coupling_but_not_the_backbone(setting, batch):
    method = KMaTConfig().build(setting)
    assert set(method.state_dict()) == {"contexts.vectors.0", "contexts.vectors.1", "_extra_state"}
    method.loss(batch)
    twin = KMaTConfig().build(setting)
    twin.load_state_dict(method.state_dict())
    assert torch.equal(twin.loss(batch)["fgw"], method.loss(batch)["fgw"])
    assert torch.equal(twin.fgw.plan, method.fgw.plan)
