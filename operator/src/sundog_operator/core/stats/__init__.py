"""E-values, confidence sequences and sample sizes for counted requests.

An e-value E of a null hypothesis has an expectation of at most 1 under that null, at every stopping time. So E reaches 1/α at any
evaluation with a probability of at most α (Ville's inequality), and frequent evaluations cost no error. All functions work with log E,
the natural logarithm.
Inputs are cumulative counts, which add up over edges and restarts. No function reads a clock or calls another system.

Arm A is control: a rollout's stable revision or an experiment's control. Arm B is the treatment: a rollout's canary or another arm of an
experiment. Weights are constant within an epoch. The log E of independent epochs add up.
"""
