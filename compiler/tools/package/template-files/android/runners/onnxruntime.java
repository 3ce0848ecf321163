package @package@;

import java.nio.FloatBuffer;
import java.util.LinkedHashMap;
import java.util.Map;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import android.content.Context;
import org.json.JSONArray;
import org.json.JSONObject;

/** ONNX Runtime on the CPU, optimizer on. */
final class OnnxruntimeRunner implements Runner {
    private final OrtEnvironment environment;
    private final OrtSession session;
    private final JSONArray inputs;

    private OnnxruntimeRunner(OrtEnvironment environment, OrtSession session, JSONArray inputs) {
        this.environment = environment;
        this.session = session;
        this.inputs = inputs;
    }

    static Runner open(Context context, byte[] model, JSONObject deploy, int threads) throws Exception {
        OrtEnvironment environment = OrtEnvironment.getEnvironment();
        try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
            options.setIntraOpNumThreads(threads);
            options.setOptimizationLevel(OrtSession.SessionOptions.OptLevel.ALL_OPT);
            OrtSession session = environment.createSession(model, options);
            return new OnnxruntimeRunner(environment, session, deploy.getJSONArray("inputs"));
        }
    }

    @Override
    public Floats[] run(Floats... given) throws Exception {
        Map<String, OnnxTensor> feeds = new LinkedHashMap<>();
        try {
            for (int at = 0; at < given.length; at++) {
                String name = inputs.getJSONObject(at).getString("name");
                feeds.put(name, OnnxTensor.createTensor(environment, FloatBuffer.wrap(given[at].data), given[at].shape));
            }
            try (OrtSession.Result found = session.run(feeds)) {
                Floats[] outputs = new Floats[found.size()];
                for (int at = 0; at < outputs.length; at++) {
                    OnnxTensor tensor = (OnnxTensor) found.get(at);
                    outputs[at] = new Floats(tensor.getInfo().getShape());
                    tensor.getFloatBuffer().get(outputs[at].data);
                }
                return outputs;
            }
        } finally {
            for (OnnxTensor tensor : feeds.values()) {
                tensor.close();
            }
        }
    }

    @Override
    public void close() throws OrtException {
        session.close();
    }
}
