"""Generation: batches and streams give the same text, stop strings stay whole, limits speak."""

import pytest
import torch

from instruct_course.common.errors import InputError
from instruct_course.generate import Completion, complete, context, stream, stream_steps
from instruct_course.sampling import Sampling

TEXTS = [
    "The capital of France is",
    "猫的英文是",
    "Sorted from smallest to largest, 3, 1, 2 is",
    "小明喜欢",
    "The",
]


def ids(nano, text):
    return nano.tokenizer(text, add_special_tokens=False).input_ids


def library(nano, prompt, n, **options):
    rows = torch.tensor([prompt])
    out = nano.model.generate(
        rows,
        attention_mask=torch.ones_like(rows),
        max_new_tokens=n,
        do_sample=False,
        pad_token_id=0,
        **options,
    )
    return out[0, len(prompt) :].tolist()


def run(nano, prompts, n=12, **options):
    return complete(
        nano.model,
        nano.tokenizer,
        prompts,
        stop_ids=options.pop("stop_ids", [1]),
        max_new_tokens=n,
        **options,
    )


def test_greedy_batched_streamed_and_the_library_agree(nano):
    prompts = [ids(nano, t) for t in TEXTS]
    together = run(nano, prompts)
    assert run(nano, prompts, batch_size=2) == together
    for prompt, c in zip(prompts, together):
        assert run(nano, [prompt]) == [c]
        want = library(nano, prompt, 12, eos_token_id=1)
        assert c.ids == (want[: want.index(1)] if 1 in want else want)
        assert c.reason == ("end" if 1 in want else "length")
        assert (
            "".join(stream(nano.model, nano.tokenizer, prompt, stop_ids=[1], max_new_tokens=12))
            == c.text
        )


def test_repetition_penalty_is_the_librarys_in_a_padded_batch(nano):
    prompts = [ids(nano, t) for t in TEXTS]
    got = run(nano, prompts, 10, stop_ids=[], sampling=Sampling(repetition_penalty=1.3))
    assert [c.ids for c in got] == [
        library(nano, p, 10, eos_token_id=None, repetition_penalty=1.3) for p in prompts
    ]


def test_beams_are_the_librarys(nano):
    prompts = [ids(nano, t) for t in TEXTS[:2] + TEXTS[-1:]]
    got = run(nano, prompts, 6, stop_ids=[], sampling=Sampling(beams=3))
    assert [c.ids for c in got] == [
        library(nano, p, 6, eos_token_id=None, num_beams=3) for p in prompts
    ]
    assert list(
        stream(
            nano.model,
            nano.tokenizer,
            prompts[0],
            stop_ids=[],
            max_new_tokens=6,
            sampling=Sampling(beams=3),
        )
    ) == [got[0].text]


def test_end_token_stops_and_is_left_out(nano):
    prompt = ids(nano, TEXTS[0])
    free = run(nano, [prompt], stop_ids=[])[0].ids
    (c,) = run(nano, [prompt], stop_ids=[free[3]])
    assert c == Completion(free[:3], nano.tokenizer.decode(free[:3]), "end")


@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[1]])
def test_stop_strings_anywhere_in_the_text(nano, text):
    prompt = ids(nano, text)
    whole = run(nano, [prompt], 16, stop_ids=[])[0].text
    for at in range(len(whole) - 3):
        stop = whole[at : at + 3]  # begins and ends within tokens as often as between them
        (c,) = run(nano, [prompt], 16, stop_ids=[], stop=[stop, "never seen"])
        assert (c.text, c.reason) == (whole[: whole.index(stop)], "stop")
        if at % 5 == 0:
            pieces = list(
                stream(
                    nano.model, nano.tokenizer, prompt, stop_ids=[], stop=stop, max_new_tokens=16
                )
            )
            assert "".join(pieces) == c.text


def test_what_only_looks_like_a_stop_string_comes_out_in_the_end(nano):
    prompt = ids(nano, TEXTS[0])
    (c,) = run(nano, [prompt], 6, stop_ids=[])
    pieces = list(
        stream(
            nano.model,
            nano.tokenizer,
            prompt,
            stop_ids=[],
            stop=c.text[-2:] + "~",
            max_new_tokens=6,
        )
    )
    assert "".join(pieces) == c.text


@pytest.mark.parametrize("n", [1, 2, 3, 12])
def test_no_half_characters(nano, n):
    prompt = ids(nano, TEXTS[3])  # the first character of its answer comes as several tokens
    (c,) = run(nano, [prompt], n, stop_ids=[])
    pieces = list(stream(nano.model, nano.tokenizer, prompt, stop_ids=[], max_new_tokens=n))
    assert (
        "\ufffd" not in c.text
        and not any("\ufffd" in p for p in pieces)
        and "".join(pieces) == c.text
    )
    assert c.text == nano.tokenizer.decode(c.ids).rstrip("\ufffd") and len(c.ids) == n
    assert (c.text == "") == (n == 1)


def test_seeds_do_not_depend_on_neighbours(nano):
    the, other = ids(nano, "The"), ids(nano, TEXTS[2])
    warm = Sampling(temperature=1.5, seed=4)
    two = run(nano, [the, the], sampling=warm)
    assert two[0].ids != two[1].ids
    assert run(nano, [other, the, other, the], sampling=warm)[1::2] == two
    assert run(nano, [the, the], batch_size=1, sampling=warm) == two
    assert run(nano, [the], sampling=Sampling(temperature=1.5, seed=5))[0].ids != two[0].ids
    assert (
        "".join(
            stream(nano.model, nano.tokenizer, the, stop_ids=[1], max_new_tokens=12, sampling=warm)
        )
        == two[0].text
    )


def test_limits_speak(nano):
    the, most = ids(nano, "The"), context(nano.model)
    assert most == 1024
    for prompts, options, words in (
        ([the, []], {}, "prompt 1 is empty"),
        ([the], {"n": most}, "1,024 that the model holds"),
        ([the], {"n": 0}, "max_new_tokens 0"),
        ([the], {"batch_size": 0}, "batch_size 0"),
        ([the], {"stop": [""]}, "stop string is empty"),
    ):
        with pytest.raises(InputError, match=words):
            run(nano, prompts, **options)
    with pytest.raises(InputError, match="is empty"):
        stream(
            nano.model, nano.tokenizer, [], stop_ids=[1]
        )  # at the call, before the first piece is asked for
    assert run(nano, []) == []


def test_training_mode_comes_back(fresh):
    the = ids(fresh, "The")
    for mode in (True, False):
        fresh.model.train(mode)
        run(fresh, [the], 2)
        list(stream(fresh.model, fresh.tokenizer, the, stop_ids=[], max_new_tokens=2))
        assert fresh.model.training is mode
    fresh.model.train()
    pieces = stream(fresh.model, fresh.tokenizer, the, stop_ids=[], max_new_tokens=9)
    next(pieces)
    assert not fresh.model.training
    pieces.close()  # left half way
    assert fresh.model.training


def test_progress_counts_prompts(nano):
    seen = []
    run(nano, [ids(nano, t) for t in TEXTS], 2, batch_size=2, progress=seen.append)
    assert seen == [2, 4, 5]


def test_steps_joined_are_the_completion(nano):
    prompt = ids(nano, TEXTS[3])
    *pieces, last = stream_steps(nano.model, nano.tokenizer, prompt, stop_ids=[1], max_new_tokens=9)
    assert [last] == run(nano, [prompt], 9)
    assert "".join(pieces) == last.text and len(pieces) == len(last.ids) + 1
