"""Review: ask people about the rows of a run whose answer helps most, and keep their answers."""
