"""Datasets: folders in Fill50K's format and shards of them, as items that ControlLDM trains on."""

from cldm.data.errors import DataError
from cldm.data.framing import SIZE_STEP, Framing, parse_size, size_problem
from cldm.data.images import Member, check_image, read_hint, read_image
from cldm.data.pairs import Indexed, Sample, check_pair, read_hint_alone, read_pair, unit_range
from cldm.data.rows import PROMPTS_FILE, BadRow, Row, find_dataset, read_rows, try_rows

__all__ = [
    "PROMPTS_FILE",
    "SIZE_STEP",
    "BadRow",
    "DataError",
    "Framing",
    "Indexed",
    "Member",
    "Row",
    "Sample",
    "check_image",
    "check_pair",
    "find_dataset",
    "parse_size",
    "read_hint",
    "read_hint_alone",
    "read_image",
    "read_pair",
    "read_rows",
    "size_problem",
    "try_rows",
    "unit_range",
]
