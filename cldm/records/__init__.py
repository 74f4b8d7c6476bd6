"""What a saved image was made of, kept in the image's own file."""

from cldm.records.hashes import FileHashes
from cldm.records.png import NoRecordError, pixels_of, png_of, read_record, save_png
from cldm.records.record import ControlMap, Record, Runtime, WeightsFile

__all__ = [
    "ControlMap",
    "FileHashes",
    "NoRecordError",
    "Record",
    "Runtime",
    "WeightsFile",
    "pixels_of",
    "png_of",
    "read_record",
    "save_png",
]
