from lab_notebooks import Wrong

WRONG = [
    Wrong("parallel over serial time", "return speedup(serial_s, parallel_s) / workers", "return parallel_s / serial_s",
          "gained_check", "doesn't ask how many workers there were.*inverse of the speed-up"),
    Wrong("the serial share is shared", "1 / (serial + (1 - serial) / workers)", "1 / (1 - serial + serial / workers)",
          "laws_check", "which of the two shares do the workers have in common"),
    Wrong("Karp and Flatt without the whole", " / (1 - 1 / workers)", "", "laws_check",
          "by what is the difference divided"),
    Wrong("one worker too many", "math.floor(1 + (1 / least - 1) / serial)", "math.ceil(1 + (1 / least - 1) / serial)",
          "laws_check", "is the efficiency of so many still as high"),
    Wrong("speed times cost", "cost / speeds[worker]", "cost * speeds[worker]", "queue_check", "needs twice as long"),
    Wrong("a plan that knows the speeds", "worker = free_s.index(min(free_s))",
          "worker = min(range(len(speeds)), key=lambda w: free_s[w] + cost / speeds[w])", "queue_check",
          "here who is free takes it, however slow"),
    Wrong("a core's rate for each worker", "together(active, one, all_cores) / active", "one", "call_time_check",
          "as if it were alone"),
    Wrong("the first task counted twice", "(len(amounts) - 1) * task_s", "len(amounts) * task_s", "call_time_check",
          "has one task in it"),
    Wrong("a prediction in milliseconds", 'memory_s = time_s(amounts["memory"], ',
          'memory_s = 1e3 * time_s(amounts["memory"], ', "predictions_check",
          "tasks 'memory'.*more than this could ever be: look at the prefix"),
]  # fmt: skip
