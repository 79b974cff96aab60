import pytest
import torch

from kmat.errors import UserError
from kmat.model.prompts import Contexts, start_from_words


@pytest.mark.parametrize(("csc", "msc"), [(False, False), (True, False), (False, True), (True, True)])
def test_shape_and_sharing(csc, msc):
    contexts = Contexts(3, 4, 8, csc=csc, msc=msc, seed=0)
    assert [tuple(each.shape) for each in contexts.vectors] == [(3 if csc else 1, 4, 8)] * (2 if msc else 1)
    high, low = contexts("high"), contexts("low")
    assert high.shape == low.shape == (3, 4, 8)
    assert torch.equal(high, low) is not msc
    assert torch.equal(high[0], high[1]) is not csc


def test_random_start_is_seeded_and_small():
    def draw(seed):
        return torch.stack(list(Contexts(50, 4, 64, csc=True, msc=True, seed=seed).vectors)).detach()

    vectors = draw(1)
    assert torch.equal(vectors, draw(1))
    assert not torch.equal(vectors, draw(2))
    assert not torch.equal(vectors[0], vectors[1])
    assert float(vectors.mean()) == pytest.approx(0, abs=1e-3)
    assert float(vectors.std()) == pytest.approx(0.02, rel=0.02)


def test_same_start_gives_both_modalities_the_same_values_but_own_parameters():
    contexts = Contexts(3, 4, 8, csc=True, msc=True, seed=0, same_start=True)
    assert torch.equal(contexts("high"), contexts("low"))
    contexts("high").sum().backward()
    high, low = contexts.vectors
    assert high.grad.abs().sum() > 0
    assert low.grad is None


def test_start_from_words_counts_pieces(tiny):
    start = start_from_words(tiny, "a photo of the", 4)
    contexts = Contexts(3, 4, tiny.token_dim, csc=True, msc=True, seed=0, start=start)
    assert torch.equal(contexts("low")[2], start)
    assert torch.equal(start, tiny.word_vectors("a photo of the"))
    with pytest.raises(UserError, match="has 6 word pieces"):
        start_from_words(tiny, "a photo of xyz", 4)
