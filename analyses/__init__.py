"""Questions asked of a model: a config in, a run folder out; tasks, reports and the command line."""
