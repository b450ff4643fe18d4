"""The embedded sample: a rendered competition in State Farm's layout, usable without its photographs."""

from distracted.sample._competition import render_sample, render_subject
from distracted.sample._subject import Nuisance

__all__ = ["Nuisance", "render_sample", "render_subject"]
