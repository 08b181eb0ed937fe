"""Settings: one tree of dataclasses, their help texts, and paths made absolute."""
