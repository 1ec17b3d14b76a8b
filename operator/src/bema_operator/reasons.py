"""What the reasons of conditions mean for what is done about a Step, each set of them once. Pure."""

from __future__ import annotations

from bema.contract.statuses import Reason

WAITING = frozenset({Reason.BACKLOG_ON_REMOVED_TOPIC, Reason.ADOPTION_WAITS})
"""The Step follows by itself once something is done or gone, of which nobody tells."""

HELD_BACK = WAITING | {Reason.TAKEN_OVER}
"""The Step's workload stays what it is: only the version before, or another Step, can do what waits."""

NO_BROKER = frozenset({Reason.BROKER_UNAVAILABLE, Reason.BROKER_TOO_OLD, Reason.TOO_FEW_SERVERS})
"""Nobody has said whether the app's stream is there and ours."""

UNSERVED = NO_BROKER | {Reason.BROKER_REFUSED}
"""NATS does not do for the Step what it needs, perhaps because it is not the one that we should ask."""

FALLEN = frozenset({Reason.IMAGE_PULL_FAILED, Reason.CRASH_LOOP, Reason.QUOTA_EXCEEDED, Reason.POD_SECURITY_REFUSED})
"""What does not pass once a rollout has ended. During one, older pods may make room, and Kubernetes has a deadline. A
pod that is not scheduled may wait for another node, one that is not ready for its broker."""

UNFOLLOWED = HELD_BACK | {Reason.APPLY_REFUSED, Reason.NAME_TAKEN}
"""Said of a workload: what somebody has made of the Step is still to be applied."""

BY_ITSELF = WAITING | {Reason.BROKER_UNAVAILABLE, Reason.ROLLING_OUT}
"""What passes without anybody's doing."""

TO_ACT_UPON = frozenset(
    {
        Reason.NOT_SUPPORTED,
        Reason.INVALID_SPEC,
        Reason.WORKLOAD_UNAVAILABLE,
        Reason.IMAGE_PULL_FAILED,
        Reason.CRASH_LOOP,
        Reason.REPLICAS_CONTESTED,
        Reason.QUOTA_EXCEEDED,
        Reason.POD_SECURITY_REFUSED,
        Reason.UNSCHEDULABLE,
        Reason.APPLY_REFUSED,
        Reason.NAME_TAKEN,
        Reason.BROKER_REFUSED,
        Reason.TAKEN_OVER,
        Reason.TOO_FEW_SERVERS,
        Reason.APP_STREAM_OWNED,
        Reason.BACKLOG_ON_REMOVED_TOPIC,
    }
)
"""What is worth an Event. Not the opposite of `BY_ITSELF`, which says what stalls a Step: a backlog passes by itself,
but a person may want to give it up; and what ails all Steps at once stalls each of them, but is no Event of each."""
