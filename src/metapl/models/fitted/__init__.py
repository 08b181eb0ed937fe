"""Networks whose weights scikit-learn fits: a logistic regression, one on words, a random forest."""
