"""A trained model put to use: predictions, evaluation, and rows that it was trained on."""
