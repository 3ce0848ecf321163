package org.pytorch;

public class IValue {
    IValue() {}

    public static IValue from(Tensor tensor) {
        throw new RuntimeException("Stub!");
    }

    public Tensor toTensor() {
        throw new RuntimeException("Stub!");
    }

    public boolean isTuple() {
        throw new RuntimeException("Stub!");
    }

    public IValue[] toTuple() {
        throw new RuntimeException("Stub!");
    }
}
