"""Prompts as numbers: text encoders of diffusers' pipelines, files of prompts, a cache of embeddings. No networks that draw."""

from .embeddings import MAX_GIB, Embedded, embedded
from .on_the_fly import OnTheFly
from .pipeline_text import PipelineText
from .prompt_files import PromptList, class_of, classes_in, read_prompts
from .protocol import Parts, TextEncoder
from .random_encoders import RandomEncoders

__all__ = [
    "MAX_GIB",
    "Embedded",
    "OnTheFly",
    "Parts",
    "PipelineText",
    "PromptList",
    "RandomEncoders",
    "TextEncoder",
    "class_of",
    "classes_in",
    "embedded",
    "read_prompts",
]
