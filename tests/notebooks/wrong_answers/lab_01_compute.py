from lab_notebooks import Wrong

WRONG = [
    Wrong("a MAC counted as a FLOP", "return 2 * batch", "return batch", "dense_cost_check",
          "FLOPs of 3 inputs.*half of what it should be: .*one multiply-add is two FLOPs"),
    Wrong("as many positions as pixels", "(height - kernel + 1) * (width - kernel + 1)", "height * width",
          "conv_macs_check", "without padding there are fewer"),
    Wrong("weights read for each row", "inputs * outputs +", "batch * inputs * outputs +", "dense_cost_check",
          "read once for all rows"),
    Wrong("the larger of the two roofs", "return min(", "return max(", "attainable_check", "can 20 GB/s feed it"),
    Wrong("the ridge point upside down", "peak_flops_per_s / bytes_per_s else", "bytes_per_s / peak_flops_per_s else",
          "attainable_check", "the ridge point is at 5"),
    Wrong("a prediction in microseconds", "one_row_s, thousand_rows_s = time_s(1), time_s(1000)",
          "one_row_s, thousand_rows_s = 1e6 * time_s(1), 1e6 * time_s(1000)", "predictions_check",
          "more than this could ever be: look at the prefix"),
]  # fmt: skip
