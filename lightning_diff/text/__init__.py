"""Prompts as numbers: text encoders of diffusers' pipelines, files of prompts, a cache of embeddings. No networks that draw."""

from .embeddings import Embedded, embedded
from .pipeline_text import PipelineText
from .prompt_files import PromptList, read_prompts
from .protocol import Parts, TextEncoder
from .random_encoders import RandomEncoders

__all__ = [
    "Embedded",
    "Parts",
    "PipelineText",
    "PromptList",
    "RandomEncoders",
    "TextEncoder",
    "embedded",
    "read_prompts",
]
