"""Plausible wrong answers for lab 05."""

from lab_notebooks import Wrong

WRONG = [
    Wrong("as many steps as codes", "(high - low) / 255", "(high - low) / 256", "parameters_check",
          "how many steps are between them"),
    Wrong("a zero point with a fraction", "round(-128 - low / scale)", "-128 - low / scale", "parameters_check",
          "itself a code: a whole number"),
    Wrong("the zero point below the lowest code", "-128 - low / scale", "-128 + low / scale", "parameters_check",
          "above the lowest code, or below it"),
    Wrong("cut off, not rounded", "np.round(x / scale)", "np.trunc(x / scale)", "codes_check",
          "the fraction is cut off"),
    Wrong("no clipping", "np.clip(np.round(x / scale) + zero_point, -128, 127).astype(np.int8)",
          "(np.round(x / scale) + zero_point).astype(np.int32).astype(np.int8)", "codes_check",
          "went round to the other end"),
    Wrong("subtracted in int8", "codes.astype(np.int32) - zero_point", "codes - zero_point", "codes_check",
          "does not fit into int8"),
    Wrong("the sign of the zero point on the way back", "codes.astype(np.int32) - zero_point",
          "codes.astype(np.int32) + zero_point", "codes_check", "must come back as 0: look at the sign"),
    Wrong("the mean of the squares", "np.sqrt(np.mean(np.square(scales)) / 12)", "np.mean(np.square(scales)) / 12",
          "errors_check", "take the root"),
    Wrong("a scale for each input", "max(axis=0) / 127", "max(axis=1) / 127", "errors_check", "scales of rows"),
    Wrong("products in int8", "(x_codes.astype(np.int32) - x_zero) @ w_codes.astype(np.int32)",
          "(x_codes - np.int8(x_zero)) @ w_codes", "integers_check", "went round"),
    Wrong("the correction added for taken away", "return -x_zero *", "return x_zero *", "integers_check",
          "right but for its sign"),
]  # fmt: skip
