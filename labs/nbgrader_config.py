"""How nbgrader finds the course's labs: run its commands in this folder, or say `make labs`."""

from pathlib import Path

here = Path(__file__).resolve().parent
c = get_config()  # noqa: F821 - nbgrader puts it here

c.CourseDirectory.course_id = "hwlimits"
c.CourseDirectory.root = str(here)
# The text beside a source notebook is for review, and holds the solutions: students don't get it.
c.CourseDirectory.ignore = [".ipynb_checkpoints", "*.pyc", "__pycache__", "*.md"]
c.ClearSolutions.code_stub = {"python": 'raise NotImplementedError("your answer here")'}
c.ClearSolutions.text_stub = "*Your explanation here.*"
c.ExecutePreprocessor.timeout = 300
c.ExecutePreprocessor.error_on_timeout = {
    "ename": "Timeout",
    "evalue": "the cell ran for five minutes",
    "traceback": [],
}
