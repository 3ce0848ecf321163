package org.pytorch;

public class Module {
    Module() {}

    public IValue forward(IValue... inputs) {
        throw new RuntimeException("Stub!");
    }

    public void destroy() {
        throw new RuntimeException("Stub!");
    }
}
