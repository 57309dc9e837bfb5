"""Do long sweeps give the same numbers everywhere?

A lesson with the options of a long sweep, for test_sweep.py: two tasks for each prompt.
"""

from collections.abc import Mapping
from typing import Any

from tinymi import Model
from tinymi.teaching import Lesson

import numpy as np


def last_logits(model: Model, task: Mapping[str, Any]) -> list[float]:
    """The work of a task: some logits of its prompt, from token ids on or from the stream after a layer on."""
    tokens = model.to_tokens(task["prompt"])
    resid = model(tokens, stop_at_layer=task["layer"])
    logits = model(resid, start_at_layer=task["layer"], positions=-1)[0, 0]
    return [float(logit) for logit in logits[:5]]


lesson = Lesson(__doc__)
lesson.option("--prompts", type=int, default=20, help="how many prompts")
lesson.sweep_options()
options = lesson.start()
model = lesson.load_model()
prompts = [f"prompt {number}" for number in range(options.prompts)]
tasks = [{"prompt": prompt, "layer": layer} for prompt in prompts for layer in (1, 2)]
sweep = lesson.sweep(model, prompts)
logits = np.array(sweep.run(last_logits, tasks, "sweep"))
sweep.close()
lesson.keep(logits=logits)
lesson.equal("both layers lead to the same logits", logits[0::2], logits[1::2])
lesson.finish()
