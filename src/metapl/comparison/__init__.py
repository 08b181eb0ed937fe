"""Methods side by side on one's own data: the same splits seed by seed, the same budget, figures with intervals."""

from metapl.comparison.comparison import Comparison as Comparison
from metapl.comparison.comparison import ComparisonStopped as ComparisonStopped
from metapl.comparison.comparison import compare as compare
from metapl.comparison.comparison import resume_comparison as resume_comparison
