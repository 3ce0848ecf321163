package @package@;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;

import android.content.Context;
import android.os.Build;
import androidx.test.platform.app.InstrumentationRegistry;
import org.json.JSONArray;
import org.json.JSONObject;
import org.junit.Test;

/** Replays the compiler's golden vectors on this device, and compares the bits of the preprocessing. */
public class GoldenTest {
    private final Context app = InstrumentationRegistry.getInstrumentation().getTargetContext();
    private final Context test = InstrumentationRegistry.getInstrumentation().getContext();

    @Test
    public void preprocessingIsTheCompilers() throws Exception {
        try (Model model = Model.open(app, 1)) {
            JSONObject check = model.deploy().json.optJSONObject("image_check");
            if (check == null) {
                return; // a model that takes no images
            }
            int channels = model.deploy().json.getJSONObject("image").getInt("channels");
            Pixels pixels = Pixels.pattern(check.getInt("width"), check.getInt("height"), channels);
            Floats made = model.prepare(pixels);
            ByteBuffer bytes = ByteBuffer.allocate(4 * made.data.length).order(ByteOrder.LITTLE_ENDIAN);
            bytes.asFloatBuffer().put(made.data);
            assertEquals(check.getString("sha256"), Deploy.hex(Deploy.sha256(bytes.array())));
        }
    }

    @Test
    public void outputsAreTheGoldenOnes() throws Exception {
        try (Model model = Model.open(app, 1)) {
            JSONObject json = model.deploy().json;
            Floats[] deployed = model.run(golden(model.deploy(), "inputs"));
            Floats[] expected = golden(model.deploy(), "outputs");
            assertEquals(expected.length, deployed.length);
            for (int at = 0; at < expected.length; at++) {
                check(json, json.getJSONArray("outputs").getJSONObject(at), deployed[at], expected[at]);
            }
        }
    }

    private Floats[] golden(Deploy deploy, String side) throws Exception {
        JSONArray entries = deploy.json.getJSONObject("golden").getJSONArray(side);
        Floats[] found = new Floats[entries.length()];
        for (int at = 0; at < found.length; at++) {
            JSONArray axes = entries.getJSONObject(at).getJSONArray("shape");
            long[] shape = new long[axes.length()];
            for (int axis = 0; axis < shape.length; axis++) {
                shape[axis] = axes.getLong(axis);
            }
            byte[] content = deploy.read(test.getAssets(), entries.getJSONObject(at).getString("file"));
            found[at] = new Floats(shape);
            ByteBuffer.wrap(content).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(found[at].data);
        }
        return found;
    }

    private static void check(JSONObject json, JSONObject output, Floats deployed, Floats expected) throws Exception {
        assertArrayEquals(expected.shape, deployed.shape);
        double off = 0;
        double magnitude = 1e-12;
        for (int at = 0; at < expected.data.length; at++) {
            off = Math.max(off, Math.abs((double) deployed.data[at] - expected.data[at])); // NaN stays NaN
            magnitude = Math.max(magnitude, Math.abs((double) expected.data[at]));
        }
        String name = output.getString("name");
        if (output.isNull("scale")) {
            double allowed = json.getDouble("tolerance_float");
            String text = " of its magnitude from the golden outputs (allowed " + allowed + ")";
            assertTrue(name + " is " + off / magnitude + text, off / magnitude <= allowed);
        } else {
            // the compiler simulates the kernels of x86-64; some runtimes have others elsewhere
            boolean simulated = Build.SUPPORTED_ABIS[0].equals("x86_64");
            int allowed = json.getInt(simulated ? "tolerance_lsb" : "tolerance_lsb_elsewhere");
            double lsb = Math.rint(off / output.getDouble("scale"));
            assertTrue(name + " is " + lsb + " LSB from the golden outputs (allowed " + allowed + ")", lsb <= allowed);
        }
    }
}
