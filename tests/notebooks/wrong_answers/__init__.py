"""Three plausible wrong answers, at least, for each lab: `WRONG` of the module lab_NN_name."""
