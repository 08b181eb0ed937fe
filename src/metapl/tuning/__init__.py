"""Settings chosen by cross-validation on the labelled rows."""

from metapl.tuning.run import Tuning as Tuning
from metapl.tuning.run import free_folder as free_folder
from metapl.tuning.run import tune as tune
from metapl.tuning.score import Score as Score
