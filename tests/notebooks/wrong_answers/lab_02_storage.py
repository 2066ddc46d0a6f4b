from lab_notebooks import Wrong

WRONG = [
    Wrong("bits for bytes", "(parameters * bits + 7) // 8", "parameters * bits", "at_rest_check",
          "1,000 numbers of 32 bits.*these are bits"),
    Wrong("rounded down to whole bytes", "(parameters * bits + 7) // 8", "parameters * bits // 8", "at_rest_check",
          "where is the third"),
    Wrong("GB for GiB", "2**30", "1e9", "at_rest_check", "that is GB, by powers of ten"),
    Wrong("Adam's moments forgotten", "4 * parameters", "2 * parameters", "training_check",
          "two numbers of each group are missing"),
    Wrong("activations once for all images", "batch * activations)", "activations)", "training_check",
          "each image has activations of its own"),
    Wrong("all buffers added up", " if first <= step <= last", "", "peak_check", "are they ever all alive"),
    Wrong("a buffer that dies before its last step", "first <= step <= last", "first <= step < last", "peak_check",
          "at its last step a buffer is still alive"),
    Wrong("the level of one array", "level_of(moved, capacities)", "level_of(8 * elements, capacities)", "level_check",
          "do all three"),
    Wrong("a result that is not written", "3 * elements", "2 * elements", "level_check",
          "the result has to be written"),
    Wrong("the batch forgotten", "4 * batch * width for", "4 * width for", "predictions_check",
          "the largest tensor alone has more bytes"),
]  # fmt: skip
