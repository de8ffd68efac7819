"""What counted requests say: e-values, intervals and sample sizes that hold at every look.

An e-value E of a null hypothesis is at most 1 in expectation wherever that holds, at every moment at which somebody may stop and look. So
E ever reaches 1/α with probability α at most (Ville), and looking often costs nothing. Everything here is the natural logarithm of one, or
follows from one. Inputs are cumulative counters that can be added over edges and restarts; nothing reads a clock or the world.

Arm A is control, arm B the candidate. An epoch is a time in which the weights stood still; evidence of epochs is multiplied.
"""
