package org.pytorch.executorch;

public class EValue {
    EValue() {}

    public static EValue from(Tensor tensor) {
        throw new RuntimeException("Stub!");
    }

    public Tensor toTensor() {
        throw new RuntimeException("Stub!");
    }
}
