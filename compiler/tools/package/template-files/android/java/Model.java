package @package@;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

import android.content.Context;
import android.graphics.Bitmap;
import org.json.JSONObject;

/**
 * The int8 model of this library.
 *
 * <pre>{@code
 * try (Model model = Model.open(context, 2)) {
 *     for (Model.Score score : model.classify(bitmap, 5)) Log.i("top", score.label + " " + score.share);
 * }
 * }</pre>
 *
 * Not safe for use from several threads at once. Loading and running take time: do both off the main thread.
 */
public final class Model implements AutoCloseable {
    /** One class: its share is a probability, by softmax where the model gives none itself. */
    public static final class Score {
        public final int index;
        public final String label;
        public final float share;

        Score(int index, String label, float share) {
            this.index = index;
            this.label = label;
            this.share = share;
        }
    }

    private final Deploy deploy;
    private final Runner runner;
    private final String[] labels;

    private Model(Deploy deploy, Runner runner, String[] labels) {
        this.deploy = deploy;
        this.runner = runner;
        this.labels = labels;
    }

    /** Load the model; its sha256 is checked first, and an IOException says where it is another. */
    public static Model open(Context context, int threads) throws Exception {
        Deploy deploy = new Deploy(context.getAssets());
        byte[] content = deploy.read(context.getAssets(), deploy.json.getString("model_file"));
        String[] labels = null;
        if (!deploy.json.isNull("labels")) {
            byte[] text = deploy.read(context.getAssets(), deploy.json.getString("labels"));
            labels = new String(text, StandardCharsets.UTF_8).trim().split("\n");
        }
        return new Model(deploy, @runner@.open(context, content, deploy.json, threads), labels);
    }

    /** The `top` best classes of an image, best first; the bitmap may have any size and must not be a hardware one. */
    public List<Score> classify(Bitmap bitmap, int top) throws Exception {
        JSONObject form = imageForm();
        return best(run(prepare(Pixels.of(bitmap, form.getInt("channels"))))[0].data, top);
    }

    /** What the model gives for inputs that are preprocessed already, in order. */
    public Floats[] run(Floats... inputs) throws Exception {
        return runner.run(inputs);
    }

    /** An image as the model takes it: float32 [1, C, H, W]. */
    Floats prepare(Pixels pixels) throws Exception {
        JSONObject form = imageForm();
        JSONObject steps = deploy.preprocess();
        return pixels.fit(form.getInt("width"), form.getInt("height")).normalize(
                (float) steps.getDouble("scale"), Deploy.floats(steps, "mean"), Deploy.floats(steps, "std"));
    }

    Deploy deploy() {
        return deploy;
    }

    @Override
    public void close() throws Exception {
        runner.close();
    }

    private JSONObject imageForm() throws IOException {
        JSONObject form = Deploy.object(deploy.json, "image");
        if (form.has("refused")) {
            throw new IOException("This model takes no images: " + form.optString("refused") + "; use run().");
        }
        return form;
    }

    private List<Score> best(float[] scores, int top) {
        float[] shares = shares(scores);
        List<Integer> order = new ArrayList<>();
        for (int at = 0; at < scores.length; at++) {
            order.add(at);
        }
        Collections.sort(order, (a, b) -> scores[a] != scores[b] ? Float.compare(scores[b], scores[a]) : a - b);
        List<Score> found = new ArrayList<>();
        for (int index : order.subList(0, Math.min(top, order.size()))) {
            String label = labels == null ? "class " + index : labels[index];
            found.add(new Score(index, label, shares[index]));
        }
        return found;
    }

    private static float[] shares(float[] scores) {
        double sum = 0;
        double largest = Double.NEGATIVE_INFINITY;
        boolean negative = false;
        for (float score : scores) {
            sum += score;
            largest = Math.max(largest, score);
            negative |= score < 0;
        }
        if (!negative && Math.abs(sum - 1) < 1e-2) {
            return scores;
        }
        double total = 0;
        for (float score : scores) {
            total += Math.exp(score - largest);
        }
        float[] made = new float[scores.length];
        for (int at = 0; at < made.length; at++) {
            made[at] = (float) (Math.exp(scores[at] - largest) / total);
        }
        return made;
    }
}
