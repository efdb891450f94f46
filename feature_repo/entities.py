"""Whom features describe, and the moment that they are asked for."""

from feast import Entity, Field, Project, RequestSource, ValueType
from feast.types import Int64

pacer = Project(
    name="pacer",
    description="Member state for sequential notification decisions",
    owner="pacer",
)

member = Entity(
    name="member",
    join_keys=["member_id"],
    value_type=ValueType.STRING,
    description="The person notified. Ids are text; a number is taken as its decimal text.",
    tags={"domain": "notifications"},
    owner="pacer",
)

# A decision's candidates bring their own features: no view is keyed by it yet (docs/features.md says why).
notification_type = Entity(
    name="notification_type",
    join_keys=["type"],
    value_type=ValueType.STRING,
    description="What a notification is about: a candidate's `type`, as in the decision log.",
    tags={"domain": "notifications"},
    owner="pacer",
)

decision_time = RequestSource(
    name="decision_time",
    schema=[Field(name="decided_at_ms", dtype=Int64, description="When the decision is made, Unix time in ms")],
    description="Known only when a decision is asked for.",
    tags={"domain": "notifications"},
    owner="pacer",
)
