"""AlgoExample: the template of an algorithm package."""
