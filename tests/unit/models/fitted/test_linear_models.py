"""Networks that are fitted: equal to scikit-learn's logistic regression, texts as its TF-IDF has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from metapl.models import build_model
from metapl.models.fitted.logistic import LinearNetwork, fit_logistic
from metapl.models.fitted.tfidf import TfIdf
from metapl.types import Tokens

WORDS = ["red", "green", "blue", "good", "bad", "ugly", "cat", "dog", "fish", "bird"]


def random_texts(count: int, seed: int = 0) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [(2 + draw.integers(len(WORDS), size=draw.integers(2, 9))).tolist() for _ in range(count)]


def as_rows(texts: list[list[int]], length: int = 10) -> Tensor:
    return torch.tensor([row + [0] * (length - len(row)) for row in texts], dtype=torch.int32)


def as_words(texts: list[list[int]]) -> list[str]:
    return [" ".join(WORDS[k - 2] for k in row) for row in texts]


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_gives_the_probabilities_of_logistic_regression(classes: int) -> None:
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(40, 5)), np.arange(40) % classes
    model = LinearNetwork((5,), classes)
    model.fit(torch.from_numpy(x).float(), torch.from_numpy(y), (), 0.5)
    expected = LogisticRegression(C=0.5, max_iter=1000).fit(x.astype(np.float32), y).predict_proba(x)
    got = torch.softmax(model(torch.from_numpy(x).float()), 1)
    np.testing.assert_allclose(got.detach().numpy(), expected, atol=1e-4)


def test_a_class_without_a_row_is_never_named() -> None:
    x, y = np.array([[0.0], [1.0], [0.1], [0.9]]), torch.tensor([0, 2, 0, 2])
    weight, bias = fit_logistic(x, y, 3, 1.0)
    p = torch.softmax(torch.from_numpy(x).float() @ weight.T + bias, 1)
    assert p[:, 1].max() < 1e-6
    assert p[:, 2].argsort().tolist()[-2:] in ([1, 3], [3, 1])


def test_tfidf_is_scikit_learns_on_the_terms_that_it_keeps() -> None:
    """Every pair occurs twice here, so that both know the same terms."""
    texts = random_texts(30) * 2
    model = TfIdf(Tokens("words", 10), 3)
    model.fit_terms(as_rows(texts[:6]), [as_rows(texts[6:20]), as_rows(texts[20:])])
    vectorizer = TfidfVectorizer(ngram_range=(1, 2)).fit(as_words(texts))
    new = random_texts(20, seed=5)
    mine, theirs = model.features(as_rows(new)), vectorizer.transform(as_words(new))
    assert mine.shape == theirs.shape
    # Columns stand in another order, so that inner products of rows are compared.
    products = (mine @ mine.T).toarray(), (theirs @ theirs.T).toarray()
    np.testing.assert_allclose(*products, atol=1e-6)


def test_tfidf_forward_is_the_layer_over_its_features() -> None:
    texts, y = random_texts(24), torch.arange(24) % 3
    model = TfIdf(Tokens("words", 10), 3)
    model.fit(as_rows(texts), y, [as_rows(random_texts(30, seed=2))], 1.0)
    new = as_rows(random_texts(15, seed=7))
    by_hand = model.features(new) @ model.weight.detach().numpy() + model.bias.detach().numpy()
    np.testing.assert_allclose(model(new).detach().numpy(), by_hand, atol=1e-5)


def test_terms_of_one_pool_row_alone_are_left_out() -> None:
    model = TfIdf(Tokens("words", 10), 2)
    model.fit_terms(as_rows([[2, 3]]), [as_rows([[4, 5], [6], [6]])])
    assert len(model.vocabulary) == 4  # 2, 3, (2, 3) of the labelled row, and 6, which occurs twice


def test_stored_terms_are_taken_whatever_their_number() -> None:
    model, fresh = (build_model("tfidf", (10,), 3, Tokens("words", 10)) for _ in range(2))
    assert isinstance(model, TfIdf)
    model.fit(as_rows(random_texts(12)), torch.arange(12) % 3, (), 1.0)
    fresh.load_state_dict(model.state_dict())
    new = as_rows(random_texts(9, seed=4))
    assert torch.equal(fresh(new), model(new))


def test_an_empty_text_gets_the_bias() -> None:
    model = TfIdf(Tokens("words", 10), 3)
    model.fit(as_rows(random_texts(12)), torch.arange(12) % 3, (), 1.0)
    assert torch.allclose(model(torch.zeros(1, 10, dtype=torch.int32))[0], model.bias)
