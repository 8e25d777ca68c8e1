"""Can a map be trusted: each metric a function on arrays and an ``Explainer``."""

from onnxsal.metrics.axioms import WeakDependence, completeness, weak_dependence
from onnxsal.metrics.conservation import Conservation, conservation
from onnxsal.metrics.curve import CurveSettings
from onnxsal.metrics.dataset import Dataset, Sample
from onnxsal.metrics.evaluate import evaluate
from onnxsal.metrics.evaluation import Evaluation, Way
from onnxsal.metrics.faithfulness import (
    Curve,
    IdScore,
    OcclusionCorrelation,
    PixelPerturbation,
    deletion,
    id_score,
    insertion,
    occlusion_correlation,
    pixel_perturbation,
)
from onnxsal.metrics.localisation import Attention, Localisation, attention_errors, pointing_game, relevance_mass, relevance_rank
from onnxsal.metrics.measures import Settings
from onnxsal.metrics.open_dataset import open_dataset
from onnxsal.metrics.ranking import TieWarning
from onnxsal.metrics.retrain import Retraining, kar, roar
from onnxsal.metrics.sanity import DataRandomization, ModelRandomization, data_randomization, model_randomization
from onnxsal.metrics.scorer import Scorer
from onnxsal.metrics.signal import LayerQuality, SignalQuality, signal_quality
from onnxsal.metrics.similarity import Similarity, similarity
from onnxsal.metrics.statistics import Summary, paired, summarise

__all__ = [
    "LayerQuality",
    "SignalQuality",
    "signal_quality",
    "Attention",
    "Conservation",
    "Curve",
    "CurveSettings",
    "DataRandomization",
    "Dataset",
    "Evaluation",
    "IdScore",
    "Localisation",
    "ModelRandomization",
    "OcclusionCorrelation",
    "PixelPerturbation",
    "Retraining",
    "Sample",
    "Scorer",
    "Settings",
    "Similarity",
    "Summary",
    "TieWarning",
    "Way",
    "WeakDependence",
    "attention_errors",
    "completeness",
    "conservation",
    "data_randomization",
    "deletion",
    "evaluate",
    "id_score",
    "insertion",
    "kar",
    "model_randomization",
    "occlusion_correlation",
    "open_dataset",
    "paired",
    "pixel_perturbation",
    "pointing_game",
    "relevance_mass",
    "relevance_rank",
    "roar",
    "similarity",
    "summarise",
    "weak_dependence",
]
