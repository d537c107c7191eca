"""Networks of the diffusers library, called as ours are: a class of it by name, its own configuration, its own names of weights.

One file for each family of calls; `FAMILIES` tells what a loader has to know of each class. The library is imported when one is
built. No weights, no pipelines, no schedulers, which are `artifacts`'.
"""

from .families import FAMILIES, family_of, modern
from .family import Config, Family
from .network import Diffusers

__all__ = ["FAMILIES", "Config", "Diffusers", "Family", "family_of", "modern"]
