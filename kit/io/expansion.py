"""Contents that claim to be far larger than the bytes that hold them: zips, HDF5 files, chunks of stores."""

BOMB_BYTES = 2**27
"""Claims up to this many bytes are taken as they are."""
BOMB_RATIO = 200
"""Largest ratio of a larger claim to the bytes that hold it; fields of weather are packed to a tenth or so."""


def is_bomb(claimed: int, held: int) -> bool:
    """Tell whether so many bytes cannot be what so few bytes hold.

    Args:
        claimed: Size in bytes that the contents unpack to, as their header says.
        held: Size in bytes of what is there.
    """
    return claimed > BOMB_BYTES and claimed > BOMB_RATIO * held
