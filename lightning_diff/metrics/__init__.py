"""Quality of generated images: torchmetrics Metrics over named feature spaces, and the rows of a report. No run folders."""

from .classifier import Classifier
from .evaluate import Reference, Row, evaluate
from .features import FeatureExtractor, Pixels, feature_extractor
from .frechet import FrechetDistance, frechet_distance
from .kernel import KernelDistance, kernel_distance
from .logits import ClassLogits
from .manifold import DensityCoverage, Manifold, PrecisionRecall, density_coverage, precision_recall
from .memorisation import Memorisation, memorised
from .moments_reference import MomentsReference
from .protocol import Protocol

__all__ = [
    "ClassLogits",
    "Classifier",
    "DensityCoverage",
    "FeatureExtractor",
    "FrechetDistance",
    "KernelDistance",
    "Manifold",
    "Memorisation",
    "MomentsReference",
    "Pixels",
    "PrecisionRecall",
    "Protocol",
    "Reference",
    "Row",
    "density_coverage",
    "evaluate",
    "feature_extractor",
    "frechet_distance",
    "kernel_distance",
    "memorised",
    "precision_recall",
]
