"""What Python users call: fit, the scikit-learn estimator, the tutorial's functions and the demo."""
