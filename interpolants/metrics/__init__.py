"""Distances between two point sets, the work that a transport does, and the quality of generated images."""

from interpolants.metrics.estimates import Estimate
from interpolants.metrics.features import Classifier, extract, feature_batches, inception, train_classifier
from interpolants.metrics.frechet import (
    FeatureStatistics,
    frechet_at_infinity,
    frechet_distance,
    frechet_floor,
)
from interpolants.metrics.kernels import energy_distance, mmd
from interpolants.metrics.neighbours import copies, density_coverage, nearest_distances, precision_recall
from interpolants.metrics.quality import ImageQuality, image_quality
from interpolants.metrics.transport import path_energy, sliced_wasserstein2, wasserstein2

__all__ = [
    "Classifier",
    "Estimate",
    "FeatureStatistics",
    "ImageQuality",
    "copies",
    "density_coverage",
    "energy_distance",
    "extract",
    "feature_batches",
    "frechet_at_infinity",
    "frechet_distance",
    "frechet_floor",
    "image_quality",
    "inception",
    "mmd",
    "nearest_distances",
    "path_energy",
    "precision_recall",
    "sliced_wasserstein2",
    "train_classifier",
    "wasserstein2",
]
