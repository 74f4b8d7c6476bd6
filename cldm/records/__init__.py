"""What a saved image was made of, kept in the image's own file."""

from cldm.records.changes import changes_since
from cldm.records.hashes import FileHashes
from cldm.records.png import NoRecordError, map_shown, pixels_of, png_of, read_record, save_png, save_shown
from cldm.records.record import FLAGS, ControlMap, Record, Runtime, WeightsFile, check_kept

__all__ = [
    "FLAGS",
    "ControlMap",
    "FileHashes",
    "NoRecordError",
    "Record",
    "Runtime",
    "WeightsFile",
    "changes_since",
    "check_kept",
    "map_shown",
    "pixels_of",
    "png_of",
    "read_record",
    "save_png",
    "save_shown",
]
