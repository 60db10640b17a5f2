"""DPO, IPO, KTO: by hand, gradients, properties; sums of log-probabilities and the reference."""

import math

import pytest
import torch
from tiny_models import some_rows, tiny_llama
from torch.nn import functional as F

from instruct_course.common.errors import InputError
from instruct_course.model.load import load_base
from instruct_course.objectives import dpo as objective
from instruct_course.objectives.reward import bradley_terry
from instruct_course.train.batch import collate

LOSSES = {"dpo": objective.dpo, "ipo": objective.ipo}


def four(n=6, seed=0):
    """Log-probabilities of chosen and rejected answers under policy and reference, (n,) each."""
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, dtype=torch.float64, generator=g) * 3 - 12 for _ in range(4)]


def logs(*probabilities):
    return [torch.tensor([p], dtype=torch.float64).log() for p in probabilities]


# -- the losses


def test_by_hand():
    """Log-ratios of ln 2 and 0, as on the lesson's paper."""
    sides = logs(1 / 4, 1 / 8, 1 / 8, 1 / 8)
    assert objective.dpo(*sides, beta=1.0).item() == pytest.approx(math.log(1.5))
    assert objective.ipo(*sides, beta=1.0).item() == pytest.approx((math.log(2) - 0.5) ** 2)
    assert objective.kto(*sides, beta=1.0, kl=0.0).item() == pytest.approx((1 / 3 + 1 / 2) / 2)
    # a reference point of ln 2: the chosen answer is at it, the rejected one below it
    assert objective.kto(*sides, beta=1.0, kl=math.log(2)).item() == pytest.approx(
        (1 / 2 + 1 / 3) / 2
    )


@pytest.mark.parametrize("beta", [0.05, 0.1, 2.0])
def test_where_policy_and_reference_agree(beta):
    chosen, rejected, _, _ = four()
    same = (chosen, rejected, chosen.clone(), rejected.clone())
    assert objective.dpo(*same, beta=beta).item() == pytest.approx(math.log(2), abs=1e-14)
    assert objective.ipo(*same, beta=beta).item() == pytest.approx(1 / (4 * beta**2))
    assert objective.kto(*same, beta=beta, kl=0.0).item() == pytest.approx(0.5)


@pytest.mark.parametrize("beta", [0.05, 1.0])
def test_dpo_is_bradley_terry_on_implicit_rewards(beta):
    pc, pr, rc, rr = four()
    rewards = (objective.implicit_rewards(p, r, beta=beta) for p, r in ((pc, rc), (pr, rr)))
    torch.testing.assert_close(objective.dpo(pc, pr, rc, rr, beta=beta), bradley_terry(*rewards))


def test_beta_towards_zero_forgets_the_pair():
    """DPO tends to ln 2, with a slope of minus half the mean margin; KTO to a half."""
    sides = four()
    margin = (sides[0] - sides[2] - sides[1] + sides[3]).mean()
    for beta in (1e-3, 1e-5):
        slope = (objective.dpo(*sides, beta=beta) - math.log(2)) / beta
        assert slope.item() == pytest.approx(-margin.item() / 2, abs=20 * beta)
        assert objective.kto(*sides, beta=beta, kl=1.0).item() == pytest.approx(0.5, abs=5 * beta)


def test_an_exchange_of_the_answers():
    """Of a single pair: the chances add up to 1; IPO's targets are mirrored."""
    pc, pr, rc, rr = four(1)
    won, lost = objective.dpo(pc, pr, rc, rr, beta=0.2), objective.dpo(pr, pc, rr, rc, beta=0.2)
    assert ((-won).exp() + (-lost).exp()).item() == pytest.approx(1)
    h = (pc - rc - pr + rr).item()
    difference = objective.ipo(pr, pc, rr, rc, beta=0.2) - objective.ipo(pc, pr, rc, rr, beta=0.2)
    assert difference.item() == pytest.approx(4 * h * 2.5)
    # KTO with both weights alike and z0 = 0: exchanging mirrors each term
    a = objective.kto(pc, pr, rc, rr, beta=0.2, kl=0.0)
    b = objective.kto(pr, pc, rr, rc, beta=0.2, kl=0.0)
    assert (a + b).item() == pytest.approx(1)


@pytest.mark.parametrize("name", LOSSES)
def test_adding_one_constant_per_answer_to_policy_and_reference_changes_nothing(name):
    pc, pr, rc, rr = four()
    moved = LOSSES[name](pc + 3, pr - 5, rc + 3, rr - 5, beta=0.3)
    torch.testing.assert_close(moved, LOSSES[name](pc, pr, rc, rr, beta=0.3))


@pytest.mark.parametrize("name", [*LOSSES, "kto"])
def test_gradients_are_those_of_finite_differences(name):
    def loss(pc, pr, rc, rr):
        if name == "kto":
            return objective.kto(pc, pr, rc, rr, beta=0.4, kl=0.7, undesirable_weight=1.5)
        return LOSSES[name](pc, pr, rc, rr, beta=0.4)

    assert torch.autograd.gradcheck(loss, [x.requires_grad_() for x in four()])


def test_the_gradient_weighs_each_pair_by_how_wrong_it_is():
    sides = [x.requires_grad_() for x in four()]
    objective.dpo(*sides, beta=0.5).backward()
    pc, pr, rc, rr = (x.detach() for x in sides)
    weight = 0.5 * torch.sigmoid(-0.5 * (pc - rc - pr + rr)) / 6
    torch.testing.assert_close(sides[0].grad, -weight)
    torch.testing.assert_close(sides[1].grad, weight)


def test_ktos_reference_point():
    policy, reference = torch.tensor([-3.0, -5.0]).requires_grad_(), torch.tensor([-4.0, -7.0])
    kl = objective.kl_reference(policy, reference)
    assert kl.item() == 1.5 and not kl.requires_grad
    assert objective.kl_reference(reference, policy).item() == 0  # never below


def test_kto_takes_what_are_no_pairs():
    a, b, c, _ = (x[:3] for x in four())
    none = a[:0]
    only_good = objective.kto(a, none, b, none, beta=0.3, kl=0.2)
    only_bad = objective.kto(none, c, none, b, beta=0.3, kl=0.2)
    both = objective.kto(a, c[:1], b, b[:1], beta=0.3, kl=0.2)
    one_bad = objective.kto(none, c[:1], none, b[:1], beta=0.3, kl=0.2)
    assert both.item() == pytest.approx((3 * only_good.item() + one_bad.item()) / 4)
    expected = torch.sigmoid(0.3 * (c - b - 0.2)).mean()
    torch.testing.assert_close(only_bad, expected)


def test_what_is_refused():
    a = torch.zeros(2)
    with pytest.raises(InputError, match="beta 0 is not above 0"):
        objective.dpo(a, a, a, a, beta=0)
    with pytest.raises(InputError, match=r"\(2,\) and \(3,\)"):
        objective.ipo(a, a, torch.zeros(3), a, beta=1)
    with pytest.raises(InputError, match="2 chosen and 1 rejected"):
        objective.dpo(a, a[:1], a, a[:1], beta=1)
    with pytest.raises(InputError, match="0 chosen and 0 rejected"):
        objective.dpo(a[:0], a[:0], a[:0], a[:0], beta=1)
    with pytest.raises(InputError, match="at least one answer"):
        objective.kto(a[:0], a[:0], a[:0], a[:0], beta=1, kl=0)
    with pytest.raises(InputError, match="at least one mismatched"):
        objective.kl_reference(a[:0], a[:0])


# -- log-probabilities of answers


def test_sums_of_rows_against_cross_entropy():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 7, 11, dtype=torch.float64, generator=g)
    labels = torch.randint(11, (4, 7), generator=g)
    labels[torch.rand(4, 7, generator=g) < 0.5] = -100
    labels[2] = -100
    ours = objective.sequence_logprobs(logits, labels)
    for i in range(4):
        library = -F.cross_entropy(logits[i, :-1], labels[i, 1:], reduction="sum")
        assert ours[i].item() == pytest.approx(library.item(), abs=1e-12)
    assert ours[2] == 0
    assert objective.token_counts(labels).tolist() == (labels[:, 1:] != -100).sum(1).tolist()


def test_a_head_on_hidden_states_gives_the_same_with_gradients():
    g = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, 6, 4, dtype=torch.float64, generator=g).requires_grad_()
    head = torch.nn.Linear(4, 9, bias=False).double()
    labels = torch.randint(9, (3, 6), generator=g)
    labels[:, :3] = -100
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    given = [hidden, head.weight]
    found = [
        torch.autograd.grad(weights @ total, given)
        for total in (
            objective.sequence_logprobs(hidden, labels, head=head),
            objective.sequence_logprobs(head(hidden), labels),
        )
    ]
    for ours, plain in zip(*found):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


def test_sixteen_bits_are_summed_in_float32():
    logits = torch.zeros(1, 3, 8, dtype=torch.bfloat16)
    total = objective.sequence_logprobs(logits, torch.tensor([[-100, 1, 2]]))
    assert total.dtype == torch.float32
    assert total.item() == pytest.approx(-2 * math.log(8), abs=1e-6)


def test_a_models_own_loss():
    model = tiny_llama().eval()
    row = some_rows(1)[0]
    batch = collate([row], 0)
    nats = model(batch["input_ids"], labels=batch["labels"]).loss * sum(
        label != -100 for label in row.labels
    )
    ours = objective.model_logprobs(model, batch)
    torch.testing.assert_close(ours[0], -nats, rtol=1e-5, atol=1e-5)


# -- the reference


def moved(model):
    """The model, with an adapter that does something."""
    torch.manual_seed(3)
    for name, p in model.named_parameters():
        if "lora_B" in name or "trainable_tokens" in name:
            torch.nn.init.normal_(p, std=0.1)
    return model


@pytest.mark.parametrize("options", [{}, {"token_ids": [5, 6]}, {"lora_dropout": 0.5}])
def test_the_reference_is_the_base_bit_by_bit(options):
    """Also with trained rows of the embedding, dropout, and in training mode."""
    adapted = moved(tiny_llama(**options)).train()
    batch = collate(some_rows(6), 0)
    before = [p.clone() for p in adapted.parameters()]
    trained = [p.requires_grad for p in adapted.parameters()]
    reference = objective.reference_logprobs(adapted, batch)
    with torch.no_grad():
        base = tiny_llama(**options).unload().eval()
        plain = objective.model_logprobs(base, batch)
        policy = objective.model_logprobs(adapted.eval(), batch)
    assert torch.equal(reference, plain) and not reference.requires_grad
    assert (policy - plain).abs().max() > 0.01  # the adapter is on again
    assert [p.requires_grad for p in adapted.parameters()] == trained
    assert all(torch.equal(a, b) for a, b in zip(before, adapted.parameters()))


def test_modes_and_flags_are_as_they_were_also_after_an_error():
    adapted = moved(tiny_llama())
    adapted.train()
    adapted.base_model.model.model.layers[0].eval()
    modes = [m.training for m in adapted.modules()]
    bad = collate(some_rows(2), 0)
    del bad["attention_mask"]
    with pytest.raises(KeyError):
        objective.reference_logprobs(adapted, bad)
    assert [m.training for m in adapted.modules()] == modes
    batch = collate(some_rows(2), 0)
    first = objective.model_logprobs(adapted.eval(), batch)
    assert (first - objective.reference_logprobs(adapted, batch)).abs().max() > 0.01
    frozen = adapted.requires_grad_(False)
    objective.reference_logprobs(frozen, batch)
    assert not any(p.requires_grad for p in frozen.parameters())


def test_the_reference_in_four_bits():
    from instruct_course.model import lora

    base = load_base("nano")
    rows = some_rows(4)
    batch = collate(rows, 0)
    with torch.no_grad():
        plain = objective.model_logprobs(base.model.eval(), batch)
    adapted = moved(lora.attach(base.model))
    assert torch.equal(objective.reference_logprobs(adapted, batch), plain)
    assert not torch.equal(objective.model_logprobs(adapted, batch).detach(), plain)


def test_a_model_without_adapter_has_no_reference():
    with pytest.raises(InputError, match="put one on with model.lora.attach"):
        objective.reference_logprobs(tiny_llama().unload(), collate(some_rows(2), 0))
