"""Methods side by side on one's own data: the same splits seed by seed, the same budget, figures with intervals."""

from metapl.compare.comparison import Comparison as Comparison
from metapl.compare.comparison import ComparisonStopped as ComparisonStopped
from metapl.compare.comparison import compare as compare
from metapl.compare.comparison import resume_comparison as resume_comparison
