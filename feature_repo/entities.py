"""Whom features describe."""

from feast import Entity, Project, ValueType

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
)
