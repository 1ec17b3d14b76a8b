"""Which member has which partition: rendezvous hashing with even shares. Pure.

Everybody who knows the same members comes to the same answer without asking anybody. Each partition goes to the member
that weighs most for it, as long as that member has room; no member gets two partitions more than another. Whoever joins
or leaves moves little more than what the even shares make necessary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection


def owners(members: Collection[str], partitions: int) -> dict[int, str]:
    """The member of each partition, from at least one member."""
    least, extra = divmod(partitions, len(set(members)))
    shares = dict.fromkeys(members, 0)
    found: dict[int, str] = {}
    pairs = ((_weight(member, partition), partition, member) for member in shares for partition in range(partitions))
    for _, partition, member in sorted(pairs, reverse=True):
        has_room = shares[member] < least or (shares[member] == least and extra > 0)
        if partition in found or not has_room:
            continue
        extra -= shares[member] == least
        shares[member] += 1
        found[partition] = member
    return found


def owned(member: str, members: Collection[str], partitions: int) -> set[int]:
    """The partitions of one member, which counts as one of `members` even where they do not know it yet."""
    everybody = {*members, member}
    return {partition for partition, owner in owners(everybody, partitions).items() if owner == member}


def _weight(member: str, partition: int) -> bytes:
    return hashlib.blake2b(f"{partition}\x1f{member}".encode(), digest_size=8).digest()
