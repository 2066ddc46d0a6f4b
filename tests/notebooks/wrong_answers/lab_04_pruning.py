"""Plausible wrong answers for lab 04."""

from lab_notebooks import Wrong

WRONG = [
    Wrong("the sign counts", "size = np.abs(weights)", "size = np.asarray(weights)", "mask_check",
          "a sign is no importance"),
    Wrong("the share that stays", "round(sparsity *", "round((1 - sparsity) *", "mask_check",
          "sparsity is the share that goes, and here it is the share that stays"),
    Wrong("one weight too many", "size >= np.sort", "size > np.sort", "mask_check", "one more than a quarter"),
    Wrong("nothing holds the zeros", "np.where(keep, weights - rate * gradient, 0)", "weights - rate * gradient",
          "mask_check", "nothing holds the zeros"),
    Wrong("the cubic upside down", "return final - (final - initial) * ahead**3",
          "return initial + (final - initial) * (1 - ahead) ** 3", "schedule_check",
          "slowly at first and fast in the end"),
    Wrong("a ramp without an end", "min(step, ramp_steps) / ramp_steps", "step / ramp_steps", "schedule_check",
          "sparsity after the ramp: .* it goes on rising"),
    Wrong("a byte for each place of the map", "-(-rows * columns // 8)", "rows * columns", "forms_check",
          "a byte for each place"),
    Wrong("values without their places", "nonzero * (value_bytes + index_bytes) +", "nonzero * value_bytes +",
          "forms_check", "in which column is each value"),
    Wrong("where rows begin, forgotten", " + (rows + 1) * index_bytes", "", "forms_check", "where does each row begin"),
    Wrong("nine tenths are ten times", "((1 - zeros) * (value_bytes + index_bytes))", "((1 - zeros) * value_bytes)",
          "speed_check", "comes with its column"),
]  # fmt: skip
