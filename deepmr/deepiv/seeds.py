"""Seeds of the many random steps of one run."""

import hashlib


def derived_seed(*parts: object) -> int:
    """Return a seed below 2^32 that depends on all parts, the same on every machine.

    Parameters
    ----------
    parts : object
        Such as a run's seed, a pair and a fold; what tells them apart is their text.
    """
    text = "\t".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")
