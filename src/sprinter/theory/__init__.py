"""The method on paper, made runnable: one-step error, laws of a round, costs, break-even, simulation, planning."""
