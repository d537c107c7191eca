"""Folders of diffusers' pipelines read as denoiser, autoencoder and text encoder; no code from them, no network of ours."""

from .load import Pipeline, load_pipeline
from .scheduler import Parametrisation, Sampling, parametrisation

__all__ = ["Parametrisation", "Pipeline", "Sampling", "load_pipeline", "parametrisation"]
