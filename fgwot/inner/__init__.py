"""The inner problem: the plan for given costs."""
