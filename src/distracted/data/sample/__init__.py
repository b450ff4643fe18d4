"""The embedded sample: a rendered competition in State Farm's layout, for want of its photographs."""

from distracted.data.sample._competition import render_sample

__all__ = ["render_sample"]
