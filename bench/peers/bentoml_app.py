"""A BentoML service with one worker and a numpy API, as in its documentation."""

import bentoml
import numpy as np
import torch

from measuring.mlp import network


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Mlp:
    def __init__(self) -> None:
        self.network = network()

    @bentoml.api
    def predict(self, x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self.network(torch.from_numpy(x.astype(np.float32))).numpy()
