"""Runs a TFLite model of one image for the Java stand-in: model and input on stdin, output on stdout."""

import struct
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter

data = sys.stdin.buffer
model = data.read(struct.unpack(">i", data.read(4))[0])
count = struct.unpack(">i", data.read(4))[0]
interpreter = Interpreter(model_content=model)
detail = interpreter.get_input_details()[0]
interpreter.resize_tensor_input(detail["index"], (count, *detail["shape"][1:]))
interpreter.allocate_tensors()
interpreter.set_tensor(detail["index"], np.frombuffer(data.read(), "<f4").reshape(count, *detail["shape"][1:]))
interpreter.invoke()
sys.stdout.buffer.write(
    interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).astype("<f4").tobytes()
)
