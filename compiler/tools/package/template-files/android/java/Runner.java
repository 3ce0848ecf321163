package @package@;

/** A model loaded in its runtime. */
interface Runner extends AutoCloseable {
    /** Outputs in order for inputs in order. */
    Floats[] run(Floats... inputs) throws Exception;

    @Override
    void close() throws Exception;
}
