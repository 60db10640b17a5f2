"""What the drawings of attention, the model and quantisation say is what the code gives."""

import pytest
import torch

from tools.drawings import attention, model, quantize, registry


def written(name: str) -> str:
    return registry.functions()[name]().svg()


def test_levels_are_those_of_nf4():
    from instruct_course.model.nf4 import NF4_LEVELS

    assert quantize.nf4_levels() == pytest.approx(NF4_LEVELS.tolist(), abs=1e-6)


def test_the_weight_is_stored_as_drawn():
    from instruct_course.model.nf4 import nf4_dequantize, nf4_quantize

    weights = torch.tensor(quantize.block_of_weights())
    packed, absmax = nf4_quantize(weights)
    back = nf4_dequantize(packed, absmax, weights.shape, torch.float32)
    chosen = ((back - weights) / absmax).abs().argmax()
    pair = packed[chosen // 2, 0].item()
    code = pair & 15 if chosen % 2 else pair >> 4
    drawn = written("nf4-levels")
    assert f"a = {absmax.item():.3f}" in drawn
    assert f"code {code}, in bits {code:04b}; " in drawn
    assert f"read back: {quantize.signed(back[chosen].item(), 4)}." in drawn


def test_the_weighted_sum_is_that_of_torch():
    h = torch.tensor(attention.TOKENS).double()
    w_k, w_v = (torch.tensor(w).double() for w in (attention.W_K, attention.W_V))
    attend = torch.nn.functional.scaled_dot_product_attention
    mixed = attend(h[None, -1:], h[None] @ w_k, h[None] @ w_v, scale=1.0)[0, 0]
    assert attention.pair(mixed.tolist()) in written("weighted-sum")


@pytest.mark.parametrize("lengths", [[10], [5, 2, 3]])
def test_masks_without_a_prefix(lengths):
    from instruct_course.model.attention import packed

    owner = attention.owners(0, lengths)
    drawn = [[attention.may_look(owner, i, j) for j in range(10)] for i in range(10)]
    assert drawn == packed(lengths).tolist()


def test_a_row_behind_a_prefix_sees_what_it_sees_alone():
    from instruct_course.model.attention import causal

    owner = attention.owners(4, [3, 3])
    for own in (range(4, 7), range(7, 10)):
        row = [*range(4), *own]
        seen = [[attention.may_look(owner, i, j) for j in row] for i in row]
        assert seen == causal(7).tolist()
    assert not any(attention.may_look(owner, i, j) for i in range(7, 10) for j in range(4, 7))
    assert attention.positions(owner, 4) == [0, 1, 2, 3, 4, 5, 6, 4, 5, 6]


def test_widths_are_those_of_nano():
    from transformers import AutoConfig

    from instruct_course.common.files import ASSETS

    nano = AutoConfig.from_pretrained(ASSETS / "nano")
    assert (nano.intermediate_size, nano.hidden_size) == (model.OUT, model.IN)
    drawn = written("llama-block")
    assert f"{nano.num_attention_heads} heads" in drawn
    assert f"{nano.num_key_value_heads} heads" in drawn
    assert f"{nano.num_hidden_layers} times" in drawn
    assert f"头宽 {nano.head_dim}" in drawn
