"""A custom predictor on KServe's model server, V1 protocol, as in its documentation."""

import argparse

import kserve
import torch

from measuring.mlp import network


class Mlp(kserve.Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.load()

    def load(self) -> bool:
        self.model = network()
        self.ready = True
        return self.ready

    def predict(self, payload, headers=None):
        with torch.inference_mode():
            return {"predictions": self.model(torch.tensor(payload["instances"])).tolist()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    args, _ = parser.parse_known_args()
    kserve.ModelServer().start([Mlp("mlp")])
