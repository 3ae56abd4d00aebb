"""Programs that a model wrote are run behind a real boundary, tested and traced. Nothing of them runs in this process.

`Sandbox` is the door; `types` holds what goes through it.
"""

from evolvent.environments.execution.sandbox import Sandbox as Sandbox
from evolvent.environments.execution.sandbox import available as available
from evolvent.environments.execution.types import Block as Block
from evolvent.environments.execution.types import Boundary as Boundary
from evolvent.environments.execution.types import Execution as Execution
from evolvent.environments.execution.types import Limits as Limits
from evolvent.environments.execution.types import Outcome as Outcome
from evolvent.environments.execution.types import TestResult as TestResult
from evolvent.environments.execution.types import Trace as Trace
from evolvent.environments.execution.types import TracedLine as TracedLine
