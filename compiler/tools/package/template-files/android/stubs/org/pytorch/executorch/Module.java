package org.pytorch.executorch;

public class Module {
    public static final int LOAD_MODE_FILE = 0;

    Module() {}

    public static Module load(String modelPath, int loadMode, int numThreads) {
        throw new RuntimeException("Stub!");
    }

    public EValue[] forward(EValue... inputs) {
        throw new RuntimeException("Stub!");
    }

    public void destroy() {
        throw new RuntimeException("Stub!");
    }
}
