"""The state of a run: what a checkpoint keeps and gives back, and what must stay the same."""

import pytest
import torch
from tiny_models import CONFIG, ROWS, tiny_llama

from instruct_course.common.errors import InputError
from instruct_course.train import loop, state


def test_the_scaler_begins_lower_for_a_divided_model():
    """A stream that was divided by s has gradients s times as large; without float16 it is off."""
    model = tiny_llama(torch.float16)
    assert state.create_scaler(model).get_scale() == 2.0**16
    model.get_base_model().rescaled = 64
    assert state.create_scaler(model).get_scale() == 2.0**10
    assert not state.create_scaler(tiny_llama()).is_enabled()


def test_settings_change_with_what_decides_the_result():
    model = tiny_llama()
    made = state.create_state(model, ROWS, CONFIG, 1).settings
    assert made == state.create_state(tiny_llama(), ROWS, CONFIG, 1).settings
    others = [
        state.create_state(model, ROWS[:-1], CONFIG, 1),
        state.create_state(model, ROWS, loop.TrainConfig(lr=1.0), 1),
        state.create_state(model, ROWS, CONFIG, 2),
    ]
    model.get_base_model().lm_head.weight.requires_grad_()
    others.append(state.create_state(model, ROWS, CONFIG, 1))
    assert all(made != other.settings for other in others)


def test_a_state_comes_back_as_it_was(tmp_path):
    """Parameters, AdamW's three tensors of each, and the history; on other settings, nothing."""
    first = state.create_state(tiny_llama(), ROWS, CONFIG, 1)
    for p in first.parameters.values():
        p.grad = torch.ones_like(p)
    first.optimizer.step()
    first.history.append({"step": 1, "steps": 2, "loss": 0.5})
    first.save(tmp_path)
    said = []
    second = state.create_state(tiny_llama(), ROWS, CONFIG, 1)
    second.restore(tmp_path, said.append)
    assert second.history == first.history and said == ["going on after step 1 of 2"]
    for name, p in second.parameters.items():
        was = first.parameters[name]
        assert torch.equal(p, was)
        for key, value in first.optimizer.state[was].items():
            assert torch.equal(second.optimizer.state[p][key], value)
    third = state.create_state(tiny_llama(), ROWS, loop.TrainConfig(lr=1.0), 1)
    before = {name: p.detach().clone() for name, p in third.parameters.items()}
    with pytest.raises(InputError, match="lr "):
        third.restore(tmp_path, said.append)
    assert all(torch.equal(p, before[name]) for name, p in third.parameters.items())


def test_without_a_checkpoint_nothing_is_restored(tmp_path):
    made = state.create_state(tiny_llama(), ROWS, CONFIG, 1)
    made.restore(tmp_path / "none")
    assert made.history == [] and not made.optimizer.state
