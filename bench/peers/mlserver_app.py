"""A custom inference runtime of MLServer with its numpy codec, as in its documentation."""

import numpy as np
import torch
from mlserver import MLModel
from mlserver.codecs import decode_args

from measuring.mlp import network


class Mlp(MLModel):
    async def load(self) -> bool:
        self._network = network()
        return True

    @decode_args
    async def predict(self, x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return self._network(torch.from_numpy(x)).numpy()
