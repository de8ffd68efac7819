"""A LitAPI with one worker, as in its documentation, with its faster queue."""

import sys

import litserve
import torch

from measuring.mlp import network


class Mlp(litserve.LitAPI):
    def setup(self, device):
        self.model = network()

    def decode_request(self, request):
        return torch.tensor(request["x"])

    def predict(self, x):
        with torch.inference_mode():
            return self.model(x)

    def encode_response(self, output):
        return {"y": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Mlp(), accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning", access_log=False
    )
