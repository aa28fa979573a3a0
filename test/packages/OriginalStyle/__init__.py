"""A package as users of the original wrote them: the whole class, no base class."""
