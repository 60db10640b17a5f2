import pytest
import torch

from instruct_course.verify import verify

x = torch.arange(6.0, dtype=torch.float64).view(2, 3)


def test_it_agrees_and_says_so(capsys):
    verify("1.1", x, x.clone() + 1e-12)
    assert "(1.1) by hand = by library, error ≤ 1e-10" in capsys.readouterr().out


@pytest.mark.parametrize("a,b", [(x, x), (x, x.detach()), (x, x + 1e-6), (x, x[:1]), (x, x.float()), (x, x * float("nan")), (x * float("nan"), x * float("nan")),
                                 (x[:0], x[:0].clone()), (x, torch.full((2, 3), torch.inf).double()), (x, x.view(-1).view(2, 3))])
def test_fakes_are_refused(a, b):
    with pytest.raises(AssertionError):
        verify("1.1", a, b)
