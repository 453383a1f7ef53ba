"""Problems with answers that can be checked, and the checking."""

from analyses.tasks.checks import checked as checked
from analyses.tasks.generated import rungs_of as rungs_of
from analyses.tasks.judge import judge as judge
from analyses.tasks.ladder import Found as Found
from analyses.tasks.ladder import find_rung as find_rung
from analyses.tasks.problem import Problem as Problem
from analyses.tasks.problem import split_of as split_of
from analyses.tasks.sources import load_problems as load_problems
from analyses.tasks.verify import Verdict as Verdict
from analyses.tasks.verify import verify as verify
from analyses.tasks.word_problems import word_problems as word_problems
