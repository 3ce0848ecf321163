package @package@;

/** A float32 tensor, the last axis fastest. */
public final class Floats {
    public final long[] shape;
    public final float[] data;

    public Floats(long... shape) {
        this(new float[size(shape)], shape);
    }

    public Floats(float[] data, long... shape) {
        if (data.length != size(shape)) {
            throw new IllegalArgumentException(data.length + " numbers do not fill the shape");
        }
        this.data = data;
        this.shape = shape.clone();
    }

    static int size(long... shape) {
        long size = 1;
        for (long axis : shape) {
            size = Math.multiplyExact(size, axis);
        }
        return Math.toIntExact(size);
    }
}
