"""What the targets whose kernels are XNNPACK's share: `tflite` and `executorch`."""
