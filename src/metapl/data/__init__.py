"""Data: sources, split, stream, views."""

from metapl.data.arrays import from_arrays as from_arrays
from metapl.data.digits import open_digits as open_digits
from metapl.data.folder import FolderSource as FolderSource
from metapl.data.folds import fold_count as fold_count
from metapl.data.folds import fold_splits as fold_splits
from metapl.data.idx import IdxSource as IdxSource
from metapl.data.images import Unreadable as Unreadable
from metapl.data.images import decode as decode
from metapl.data.memory import MemorySource as MemorySource
from metapl.data.preprocess import fit_preprocessing as fit_preprocessing
from metapl.data.preprocess import preprocessing_from_dict as preprocessing_from_dict
from metapl.data.preprocess import preprocessing_to_dict as preprocessing_to_dict
from metapl.data.seeds import derive_seed as derive_seed
from metapl.data.seeds import generator as generator
from metapl.data.semi import SemiSupervisedDataset as SemiSupervisedDataset
from metapl.data.sources import SOURCES as SOURCES
from metapl.data.sources import SourceOptions as SourceOptions
from metapl.data.sources import open_source as open_source
from metapl.data.split import SplitConfig as SplitConfig
from metapl.data.split import from_json as from_json
from metapl.data.split import make_split as make_split
from metapl.data.split import to_json as to_json
from metapl.data.stream import BatchConfig as BatchConfig
from metapl.data.stream import Stream as Stream
from metapl.data.views import ViewConfig as ViewConfig
from metapl.data.views import make_views as make_views
