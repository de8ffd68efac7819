"""Code of small models, as users write it."""

from textwrap import indent

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, hidden=8):
        super().__init__()
        self.first = torch.nn.Linear(4, hidden)
        self.second = torch.nn.Linear(hidden, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))
"""


def predictor(predict: str, *, kind: str = "def", load: str = "pass", example: str = "", imports: str = "") -> str:
    """Return a module with a class `Predictor`. The arguments are the bodies of its methods; `kind` may be `async def`."""
    methods = [("def", "load(self, path, config)", load), (kind, "predict(self, batch)", predict)]
    if example:
        methods.append(("def", "example(self)", f"return {example}"))
    code = "\n".join(f"{how} {name}:\n{indent(body, '    ')}" for how, name, body in methods)
    return f"{imports}\nclass Predictor:\n{indent(code, '    ')}\n"
