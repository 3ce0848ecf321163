package org.pytorch;

public final class LitePyTorchAndroid {
    LitePyTorchAndroid() {}

    public static void setNumThreads(int numThreads) {
        throw new RuntimeException("Stub!");
    }
}
