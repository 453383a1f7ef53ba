"""Thinking on and off, at budgets, what thoughts bring, and whether a missing number is noticed."""
