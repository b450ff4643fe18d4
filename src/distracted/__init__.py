"""Distracted-driver competition solution: honest folds, out-of-fold predictions, blends, submission."""
