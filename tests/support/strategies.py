"""Hypothesis strategies for everything that a checkpoint may be."""

from __future__ import annotations

from hypothesis import strategies as st

from milepost import Checkpoint, Watermark
from milepost.details import RESERVED
from support.chains import MAX

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
names = st.text(characters, min_size=1, max_size=20).filter(lambda name: len(name.encode()) <= 1024)
integers = st.one_of(st.integers(0, 5), st.integers(0, MAX))
watermarks = st.builds(Watermark, integers, integers)
stages = names.filter(lambda name: not name.startswith(RESERVED))
checkpoints = st.builds(Checkpoint, names, stages, integers, watermarks, names, integers)
