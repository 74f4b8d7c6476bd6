"""EXIF that says how a photo lies, and beside that has an entry that cameras write and Pillow cannot write again."""

import struct

UPRIGHT_BY_TURNING_CLOCKWISE = 6
_SHORT, _ASCII, _SIGNED_RATIONAL, _FLOAT = 3, 2, 10, 11
_VALUES_AT = 8 + 2 + 2 * 12 + 4  # after the header and a table of two entries


def _exif(tag: int, kind: int, value: bytes) -> bytes:
    orientation = 0x0112, _SHORT, 1, struct.pack("<HH", UPRIGHT_BY_TURNING_CLOCKWISE, 0)
    count = 4 if kind == _ASCII else 1
    table = b"".join(struct.pack("<HHI4s", *entry) for entry in sorted([orientation, (tag, kind, count, value)]))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + table + struct.pack("<Iii", 0, -1, 3)


ODD_EXIF = {
    "offsets of strips as text": _exif(0x0111, _ASCII, b"abc\0"),
    "a pointer as text": _exif(0xA005, _ASCII, b"abc\0"),
    "a negative resolution": _exif(0x011A, _SIGNED_RATIONAL, struct.pack("<I", _VALUES_AT)),
    "a resolution that is no number": _exif(0x011A, _FLOAT, struct.pack("<f", float("nan"))),
}
"""Content of a file's EXIF by what is odd in it; all are to be turned clockwise."""
