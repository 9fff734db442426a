"""A school: the enrolment of the field of dynamic consistency boundaries. A limit for each course and one for each student, and one
decision that looks at both: nobody locks anything, and neither is an aggregate that owns the other.

school     events, commands, the two states, what is decided, and the list of courses
clients    what students do, for the demo
running    many of them, in processes that are killed; a second count looks on
"""

from ensue.examples.enrolment.school import school

__all__ = ["school"]
