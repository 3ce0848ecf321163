package ai.onnxruntime;

public class OrtSession implements AutoCloseable {
    OrtSession() {}

    public Result run(java.util.Map<String, ? extends OnnxTensorLike> inputs) throws OrtException {
        throw new RuntimeException("Stub!");
    }

    @Override
    public void close() throws OrtException {
        throw new RuntimeException("Stub!");
    }

    public static class SessionOptions implements AutoCloseable {
        public enum OptLevel {
            NO_OPT,
            BASIC_OPT,
            EXTENDED_OPT,
            ALL_OPT
        }

        public SessionOptions() {
            throw new RuntimeException("Stub!");
        }

        public void setIntraOpNumThreads(int numThreads) throws OrtException {
            throw new RuntimeException("Stub!");
        }

        public void setOptimizationLevel(OptLevel level) throws OrtException {
            throw new RuntimeException("Stub!");
        }

        @Override
        public void close() {
            throw new RuntimeException("Stub!");
        }
    }

    public static class Result implements AutoCloseable {
        Result() {}

        public int size() {
            throw new RuntimeException("Stub!");
        }

        public OnnxValue get(int index) {
            throw new RuntimeException("Stub!");
        }

        @Override
        public void close() {
            throw new RuntimeException("Stub!");
        }
    }
}
