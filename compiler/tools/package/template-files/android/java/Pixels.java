package @package@;

import android.graphics.Bitmap;

/**
 * Interleaved 8-bit channels, and what becomes of them before the model sees them, with the bits of the compiler:
 * Pillow's integer resampling of the largest centred part, then x * scale - mean, / std in float32.
 */
final class Pixels {
    private static final int PRECISION = 22;

    final int width;
    final int height;
    final int channels;
    final byte[] data;

    Pixels(int width, int height, int channels) {
        this.width = width;
        this.height = height;
        this.channels = channels;
        this.data = new byte[Math.multiplyExact(Math.multiplyExact(width, height), channels)];
    }

    /** Alpha is dropped; one channel is luma as Pillow's "L". */
    static Pixels of(Bitmap bitmap, int channels) {
        Pixels made = new Pixels(bitmap.getWidth(), bitmap.getHeight(), channels);
        int[] row = new int[made.width];
        int at = 0;
        for (int y = 0; y < made.height; y++) {
            bitmap.getPixels(row, 0, made.width, 0, y, made.width, 1);
            for (int argb : row) {
                int red = argb >> 16 & 255;
                int green = argb >> 8 & 255;
                int blue = argb & 255;
                if (channels == 1) {
                    made.data[at++] = (byte) (red * 19595 + green * 38470 + blue * 7471 + 0x8000 >> 16);
                } else {
                    made.data[at++] = (byte) red;
                    made.data[at++] = (byte) green;
                    made.data[at++] = (byte) blue;
                }
            }
        }
        return made;
    }

    /** The image with which every package checks its preprocessing. */
    static Pixels pattern(int width, int height, int channels) {
        Pixels made = new Pixels(width, height, channels);
        int at = 0;
        for (int y = 0; y < height; y++) {
            for (int x = 0; x < width; x++) {
                for (int c = 0; c < channels; c++) {
                    made.data[at++] = (byte) (x * 7 + y * 13 + c * 29 + x * y / 8);
                }
            }
        }
        return made;
    }

    /** The largest centred part with the wanted aspect ratio, resized: PIL.ImageOps.fit, bilinear, antialiased. */
    Pixels fit(int toWidth, int toHeight) {
        double ratio = (double) toWidth / toHeight;
        double own = (double) width / height;
        double cropWidth = own > ratio ? ratio * height : width;
        double cropHeight = own < ratio ? width / ratio : height;
        double left = (width - cropWidth) * 0.5;
        double top = (height - cropHeight) * 0.5;
        Taps[] columns = Taps.along(width, (float) left, (float) (left + cropWidth), toWidth);
        Taps[] rows = Taps.along(height, (float) top, (float) (top + cropHeight), toHeight);
        return resampleColumns(columns).resampleRows(rows);
    }

    /** float32 channels first, for a batch of one. `mean` and `std`: one value for each channel, or one, or none. */
    Floats normalize(float scale, float[] mean, float[] std) {
        Floats made = new Floats(1, channels, height, width);
        int area = width * height;
        for (int c = 0; c < channels; c++) {
            for (int at = 0; at < area; at++) {
                float x = data[at * channels + c] & 255;
                if (scale != 1) {
                    x *= scale;
                }
                if (mean.length > 0) {
                    x -= mean[mean.length == 1 ? 0 : c];
                }
                if (std.length > 0) {
                    x /= std[std.length == 1 ? 0 : c];
                }
                made.data[c * area + at] = x;
            }
        }
        return made;
    }

    private Pixels resampleColumns(Taps[] columns) {
        Pixels made = new Pixels(columns.length, height, channels);
        int out = 0;
        for (int y = 0; y < height; y++) {
            for (Taps taps : columns) {
                for (int c = 0; c < channels; c++) {
                    made.data[out++] = taps.sum(data, (y * width + taps.first) * channels + c, channels);
                }
            }
        }
        return made;
    }

    private Pixels resampleRows(Taps[] rows) {
        int stride = width * channels;
        Pixels made = new Pixels(width, rows.length, channels);
        int out = 0;
        for (Taps taps : rows) {
            for (int x = 0; x < stride; x++) {
                made.data[out++] = taps.sum(data, taps.first * stride + x, stride);
            }
        }
        return made;
    }

    /** Where the pixels of one output position start, and their weights in units of 2^-22. */
    private static final class Taps {
        final int first;
        final int[] weights;

        private Taps(int first, int[] weights) {
            this.first = first;
            this.weights = weights;
        }

        static Taps[] along(int size, float start, float end, int count) {
            double scale = (double) (end - start) / count;
            double support = Math.max(scale, 1);
            Taps[] made = new Taps[count];
            for (int at = 0; at < count; at++) {
                double center = start + (at + 0.5) * scale;
                int first = Math.max((int) (center - support + 0.5), 0);
                int last = Math.min((int) (center + support + 0.5), size);
                made[at] = new Taps(first, weights(first, last, center, support));
            }
            return made;
        }

        private static int[] weights(int first, int last, double center, double support) {
            double[] weights = new double[last - first];
            double sum = 0;
            for (int at = 0; at < weights.length; at++) {
                weights[at] = Math.max(1 - Math.abs((at + first - center + 0.5) * (1 / support)), 0);
                sum += weights[at];
            }
            int[] made = new int[weights.length];
            for (int at = 0; at < made.length; at++) {
                made[at] = (int) (0.5 + weights[at] / sum * (1 << PRECISION));
            }
            return made;
        }

        byte sum(byte[] data, int from, int step) {
            int sum = 1 << PRECISION - 1;
            int at = from;
            for (int weight : weights) {
                sum += (data[at] & 255) * weight;
                at += step;
            }
            return (byte) (sum >> PRECISION);
        }
    }
}
