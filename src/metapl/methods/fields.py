"""Settings that several methods share: type, meaning, range and the values that tuning tries."""

from __future__ import annotations

from typing import Annotated, Literal

from metapl import thresholds
from metapl.utils.fields import BELOW_ONE, NOT_NEGATIVE, POSITIVE, SHARE, Tries

LabelSmoothing = Annotated[float, "label smoothing on the labelled rows", BELOW_ONE]
Weight = Annotated[float, "weight of the unlabelled loss", NOT_NEGATIVE]
AverageDecay = Annotated[float, "decay of the moving averages; take less in shorter runs", BELOW_ONE, Tries("0.9,0.99")]
Ramp = Annotated[float, "share of the run over which the weight of the unlabelled term rises from 0", SHARE]

# Which pseudo labels count: ``thresholds``.
ThresholdSetting = Annotated[
    float | str,
    "least confidence of a pseudo label (above 1: none passes), or a precision such as precision=0.95",
    NOT_NEGATIVE,
    Tries("0.5,0.7,0.8,0.9,0.95,0.99", idle=("selection", "adaptive", "soft")),
]
SelectionKind = Annotated[thresholds.Selection, "how the threshold moves: docs/thresholds.md"]
SelectionDecay = Annotated[
    float, "decay of the averages that adaptive and soft use in place of the threshold", BELOW_ONE
]

# The consistency loss of ``uda``, alone or as a part of another method.
UdaWeight = Annotated[float, "weight of the consistency loss; 0 = off", NOT_NEGATIVE]
UdaThreshold = Annotated[
    float | str,
    "least confidence of a consistency target (above 1: none passes), or a precision such as precision=0.6",
    NOT_NEGATIVE,
    Tries("0,0.4,0.6,0.8,0.95", idle=("uda_weight", 0.0)),
]
UdaTemperature = Annotated[
    float, "below 1 sharpens the consistency target", POSITIVE, Tries("0.4,0.7,1", idle=("uda_weight", 0.0))
]

# Meta Pseudo Labels and its relatives.
FeedbackWeight = Annotated[float, NOT_NEGATIVE, Tries("0,0.1,0.3,1", idle=("feedback", "none"))]
Baseline = Annotated[float, "decay of the moving baseline of the gain; 0 = no baseline", BELOW_ONE]
DerivativeKind = Annotated[Literal["auto", "forward", "difference", "one_sided"], "how the derivative (E4) is computed"]
FinetuneSteps = Annotated[int, "steps of fine-tuning on the labelled rows, after the main phase; 0 = off", NOT_NEGATIVE]
FinetuneRate = Annotated[float, "learning rate of fine-tuning (plain SGD)", POSITIVE]
