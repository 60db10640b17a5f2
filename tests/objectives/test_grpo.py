"""GRPO: against TRL on the same numbers, by hand, gradients; rewards, and groups of answers."""

import math

import pytest
import torch
from trl_losses import grpo_loss

from instruct_course.common.errors import InputError
from instruct_course.data import template
from instruct_course.data.dataset import builtin, example
from instruct_course.data.example import Example
from instruct_course.evaluate.ifeval import VerifiablePrompt, read
from instruct_course.generate import Completion, complete
from instruct_course.model.load import load_base
from instruct_course.objectives import grpo as objective
from instruct_course.sampling import Sampling

LENGTHS = [3, 5, 1, 4, 2, 5]  # tokens of six answers, two groups of three


def numbers(seed=0, spread=0.3):
    """(policy, old, reference, advantages, rows) of six answers in float64."""
    g = torch.Generator().manual_seed(seed)
    m = sum(LENGTHS)
    old = torch.randn(m, dtype=torch.float64, generator=g) - 2
    policy = old + spread * torch.randn(m, dtype=torch.float64, generator=g)
    reference = old + spread * torch.randn(m, dtype=torch.float64, generator=g)
    rewards = torch.rand(2, 3, dtype=torch.float64, generator=g)
    rows = torch.repeat_interleave(torch.arange(6), torch.tensor(LENGTHS))
    return policy, old, reference, objective.group_advantages(rewards).flatten(), rows


# -- the loss against TRL's


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("clip, beta", [(0.2, 0.04), (0.1, 0.0), (0.4, 1.0)])
def test_trls_loss_its_gradient_and_its_metrics(seed, clip, beta):
    policy, old, reference, advantages, rows = numbers(seed)
    policy.requires_grad_()
    ours = objective.grpo(policy, old, reference, advantages, rows, 6, clip=clip, beta=beta)
    theirs, metrics = grpo_loss(policy, old, reference, advantages, LENGTHS, clip=clip, beta=beta)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(loss, policy)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
    share = objective.is_clipped(policy, old, advantages[rows], clip=clip).float().mean()
    assert 0 < share < 1
    assert metrics["clip_ratio/region_mean"] == [pytest.approx(share.item())]
    if beta:
        kl = objective.kl_k3(policy, reference).mean()
        assert metrics["kl"] == [pytest.approx(kl.item(), rel=1e-10)]


def test_the_other_averages_are_made_of_the_same_terms():
    """What the lesson says of TRL's dapo and dr_grpo."""
    policy, old, reference, advantages, rows = numbers()
    value = objective.clipped(policy, old, advantages[rows])
    value = value - 0.04 * objective.kl_k3(policy, reference)
    for loss_type, expected in (
        ("dapo", -value.mean()),
        ("bnpo", -value.mean()),
        ("dr_grpo", -value.sum() / (6 * 5)),
        ("grpo", -objective.answer_means(value, rows, 6).mean()),
    ):
        theirs, _ = grpo_loss(policy, old, reference, advantages, LENGTHS, loss_type=loss_type)
        torch.testing.assert_close(expected, theirs, rtol=1e-12, atol=1e-12)


# -- the loss by hand, and its gradient


def logs(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_by_hand():
    """Ratios 1.5, 1 and 0.5; the first is clipped at 1.2."""
    policy, old = logs(0.6, 0.5, 0.1), logs(0.4, 0.5, 0.2)
    advantages, rows = torch.tensor([1.0, -1.0], dtype=torch.float64), torch.tensor([0, 0, 1])
    loss = objective.grpo(policy, old, None, advantages, rows, 2, beta=0)
    assert loss.item() == pytest.approx(-((1.2 + 1) / 2 - 0.8) / 2)
    kl = 0.2 / 0.1 - math.log(2) - 1
    loss = objective.grpo(policy[2:], old[2:], old[2:], advantages[:1], rows[:1], 1, beta=0.5)
    assert loss.item() == pytest.approx(-(0.5 - 0.5 * kl))


def test_gradients_are_those_of_finite_differences():
    policy, old, reference, advantages, rows = numbers()

    def loss(policy):
        return objective.grpo(policy, old, reference, advantages, rows, 6, beta=0.3)

    assert torch.autograd.gradcheck(loss, policy.requires_grad_())


def test_a_ratio_of_one_gives_the_policy_gradient():
    """The gradient of minus A log π, averaged as the loss averages."""
    _, old, _, advantages, rows = numbers()
    policy = old.clone().requires_grad_()
    loss = objective.grpo(policy, old, None, advantages, rows, 6, beta=0)
    plain = -objective.answer_means(advantages[rows] * policy, rows, 6).mean()
    gradients = [torch.autograd.grad(x, policy)[0] for x in (loss, plain)]
    torch.testing.assert_close(*gradients)
    assert loss.item() == pytest.approx(-advantages.mean().item(), abs=1e-15)


def test_clipped_tokens_give_no_gradient_and_the_others_do():
    policy, old, _, advantages, rows = numbers(spread=0.5)
    policy.requires_grad_()
    objective.grpo(policy, old, None, advantages, rows, 6, beta=0).backward()
    out = objective.is_clipped(policy, old, advantages[rows])
    assert out.any() and not out.all()
    assert torch.equal(policy.grad == 0, out)


@pytest.mark.parametrize("advantage, gradients", [(1.0, [0.5, 1, 0]), (-1.0, [0, -1, -1.5])])
def test_only_one_side_is_clipped(advantage, gradients):
    """Ratios 0.5, 1, 1.5: the slope in the log-probability is ratio times advantage, or 0."""
    old = logs(0.4, 0.4, 0.4)
    policy = logs(0.2, 0.4, 0.6).requires_grad_()
    objective.clipped(policy, old, torch.full_like(old, advantage)).sum().backward()
    expected = torch.tensor(gradients, dtype=torch.float64)
    torch.testing.assert_close(policy.grad, expected)


def test_equal_rewards_give_no_gradient():
    policy, old, reference, _, rows = numbers()
    advantages = objective.group_advantages(torch.full((2, 3), 0.1, dtype=torch.float64)).flatten()
    policy.requires_grad_()
    objective.grpo(policy, old, reference, advantages, rows, 6, beta=0).backward()
    assert torch.equal(policy.grad, torch.zeros_like(policy))


def test_each_answer_counts_the_same_and_one_without_tokens_nothing():
    values, rows = torch.tensor([1.0, 3, 5]), torch.tensor([0, 0, 2])
    assert objective.answer_means(values, rows, 3).tolist() == [2, 0, 5]


# -- the KL estimate


def test_k3_is_never_negative_and_zero_where_both_agree():
    for dtype in (torch.float32, torch.float64):
        d = torch.cat([torch.linspace(-20, 20, 10_001), torch.logspace(-12, 0, 1000)]).to(dtype)
        for sign in (1, -1):
            assert (objective.kl_k3(torch.zeros_like(d), sign * d) >= 0).all()
    same = torch.tensor([-3.0, -0.1])
    assert objective.kl_k3(same, same).tolist() == [0, 0]


def test_k3_averages_to_the_divergence():
    """Exactly, over all tokens of a small vocabulary."""
    g = torch.Generator().manual_seed(0)
    policy, reference = torch.randn(2, 7, dtype=torch.float64, generator=g).log_softmax(1)
    mean = (policy.exp() * objective.kl_k3(policy, reference)).sum()
    exact = torch.nn.functional.kl_div(reference, policy, reduction="sum", log_target=True)
    torch.testing.assert_close(mean, exact)


# -- advantages


def test_advantages_by_hand():
    rewards = torch.tensor([[1.0, 0, 0, 0], [0, 2, 0, 2]], dtype=torch.float64)
    made = objective.group_advantages(rewards, eps=0)
    # deviations 0.5 and sqrt(4/3), each with 3 in the denominator of the variance
    expected = [[1.5, -0.5, -0.5, -0.5], [-(0.75**0.5), 0.75**0.5, -(0.75**0.5), 0.75**0.5]]
    torch.testing.assert_close(made, torch.tensor(expected, dtype=torch.float64))
    plain = objective.group_advantages(rewards, scale=False)
    assert plain.tolist() == [[0.75, -0.25, -0.25, -0.25], [-1, 1, -1, 1]]


def test_advantages_of_equal_rewards_are_zeros_to_the_bit():
    for size in (2, 3, 7):
        assert torch.equal(
            objective.group_advantages(torch.full((1, size), 0.1)), torch.zeros(1, size)
        )


def test_advantages_know_no_scale_and_no_zero():
    rewards = torch.rand(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = objective.group_advantages(rewards, eps=0)
    torch.testing.assert_close(objective.group_advantages(3 * rewards - 7, eps=0), made)
    torch.testing.assert_close(made.sum(1), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(made.var(1), torch.ones(4, dtype=torch.float64))


# -- what is refused


def test_what_is_refused():
    a, rows = torch.zeros(2), torch.tensor([0, 1])
    with pytest.raises(InputError, match=r"policy \(2,\), old \(3,\)"):
        objective.clipped(a, torch.zeros(3), a)
    with pytest.raises(InputError, match="clip 1.5 is not between 0 and 1"):
        objective.grpo(a, a, a, a, rows, 2, clip=1.5)
    with pytest.raises(InputError, match="beta -1 is below 0"):
        objective.grpo(a, a, a, a, rows, 2, beta=-1)
    with pytest.raises(InputError, match="for 3 answers"):
        objective.grpo(a, a, a, a, rows, 3)
    with pytest.raises(InputError, match="at least one answer"):
        objective.grpo(a[:0], a[:0], a[:0], a[:0], rows[:0], 0)
    with pytest.raises(InputError, match="at least 2 answers per prompt"):
        objective.group_advantages(torch.zeros(3, 1))
    with pytest.raises(InputError, match="NaN or infinite"):
        objective.group_advantages(torch.tensor([[0.0, math.nan]]))


# -- rewards


def test_an_exact_reward():
    row = Example("Add.", "2, 3", "5")
    assert [objective.exact_reward(row, text) for text in ("5", " 5. ", "5 apples", "")] == [
        1.0,
        1.0,
        0.0,
        0.0,
    ]
    with pytest.raises(InputError, match="'Add.' has no output"):
        objective.exact_reward(Example("Add."), "")


def test_a_reward_of_instructions_counts_the_checks():
    checks = ({"name": "case", "kind": "upper"}, {"name": "length", "exactly": 1})
    asked = VerifiablePrompt("Name a fruit.", checks=checks)
    given = [objective.instruction_reward(asked, t) for t in ("PLUM", "plum", "two plums", "")]
    assert given == [1.0, 0.5, 0.0, 0.0]


def test_the_built_in_instructions_reward_their_own_answers():
    assert {objective.instruction_reward(p, p.answer) for p in read()} == {1.0}


# -- groups of answers


@pytest.fixture(scope="module")
def nano():
    base = load_base("nano", quantization="none")
    form = template.named("article")
    template.prepare(form, base.tokenizer)
    return base.model, base.tokenizer, form


ROWS = [example(r) for r in builtin("dev").select(range(3))]
OPTIONS = {"size": 3, "max_new_tokens": 8}


def drawn(nano, rows=ROWS, **options):
    return objective.sample_groups(*nano, rows, **(OPTIONS | options))


def test_the_same_seed_draws_the_same_answers(nano):
    first = drawn(nano, seed=1)
    assert drawn(nano, seed=1) == first
    assert drawn(nano, seed=2).texts != first.texts
    assert len({tuple(row.ids) for row in first.answers[:3]}) > 1  # within a group they differ


def test_answers_do_not_depend_on_the_batch(nano):
    whole = drawn(nano)
    assert drawn(nano, ROWS[::-1]).answers[6:] == whole.answers[:3]
    assert drawn(nano, batch_size=2) == whole
    assert drawn(nano, ROWS[1:2]).answers == whole.answers[3:6]


def test_a_larger_group_begins_with_the_smaller_one(nano):
    small, large = drawn(nano), drawn(nano, size=5)
    assert [large.answers[i] for i in (0, 1, 2, 5, 6, 7)] == small.answers[:6]


def test_an_answer_is_a_row_with_labels_on_what_was_drawn(nano):
    model, tokenizer, form = nano
    made = drawn(nano)
    ends = template.stop_ids(form, tokenizer)
    repeated = [p for p in made.prompts for _ in range(3)]
    plain = complete(
        model,
        tokenizer,
        repeated,
        stop_ids=ends,
        max_new_tokens=8,
        sampling=Sampling(temperature=1.0, seed=0),
    )
    for ids, row, text, expected in zip(repeated, made.answers, made.texts, plain):
        end = [ends[0]] if expected.reason == "end" else []
        assert row.ids == ids + expected.ids + end
        assert row.labels == [-100] * len(ids) + expected.ids + end
        assert text == expected.text.strip()
    assert made.prompts == [template.prompt(form, tokenizer, ex) for ex in ROWS]


@pytest.mark.parametrize(
    "ids, reason, expected",
    [
        ([5, 6], "end", [5, 6, 1]),
        ([5, 6], "length", [5, 6]),
        ([5, 2, 6], "end", [5, 2]),  # a second end token ends it, and is the one that was drawn
        ([], "end", [1]),
    ],
)
def test_the_end_token_that_was_drawn(monkeypatch, nano, ids, reason, expected):
    made = [Completion(ids, "", reason)] * 2
    monkeypatch.setattr(objective, "complete", lambda *_, **__: made)
    monkeypatch.setattr(objective, "template_stop_ids", lambda *_: (1, 2))
    (prompt,), row = (groups := drawn(nano, ROWS[:1], size=2)).prompts, groups.answers[0]
    assert row.ids[len(prompt) :] == expected
    spoken = [i for i in expected if i not in (1, 2)]
    assert groups.texts[0] == nano[1].decode(spoken).strip()


def test_rewards_of_groups(nano):
    made = drawn(nano)
    lengths = objective.group_rewards(lambda ex, text: len(text), ROWS, made)
    assert lengths.shape == (3, 3) and lengths.flatten().tolist() == [len(t) for t in made.texts]
    with pytest.raises(InputError, match="2 rows for 3 groups"):
        objective.group_rewards(objective.exact_reward, ROWS[:2], made)


def test_groups_that_are_refused(nano):
    with pytest.raises(InputError, match="a group of 0"):
        drawn(nano, size=0)
    with pytest.raises(InputError, match="temperature 0"):
        drawn(nano, temperature=0)
