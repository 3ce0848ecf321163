package @package@;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;

import android.content.Context;
import org.json.JSONObject;
import org.tensorflow.lite.Interpreter;

/** TensorFlow Lite (LiteRT) on the CPU with its XNNPACK delegate. */
final class LitertRunner implements Runner {
    private final Interpreter interpreter;

    private LitertRunner(Interpreter interpreter) {
        this.interpreter = interpreter;
    }

    static Runner open(Context context, byte[] model, JSONObject deploy, int threads) {
        ByteBuffer content = ByteBuffer.allocateDirect(model.length).order(ByteOrder.nativeOrder());
        content.put(model).rewind();
        Interpreter.Options options = new Interpreter.Options().setNumThreads(threads).setUseXNNPACK(true);
        return new LitertRunner(new Interpreter(content, options));
    }

    @Override
    public Floats[] run(Floats... inputs) {
        Object[] given = new Object[inputs.length];
        for (int at = 0; at < inputs.length; at++) {
            int[] shape = new int[inputs[at].shape.length];
            for (int axis = 0; axis < shape.length; axis++) {
                shape[axis] = Math.toIntExact(inputs[at].shape[axis]);
            }
            if (!Arrays.equals(shape, interpreter.getInputTensor(at).shape())) {
                interpreter.resizeInput(at, shape);
            }
            ByteBuffer values = ByteBuffer.allocateDirect(4 * inputs[at].data.length).order(ByteOrder.nativeOrder());
            values.asFloatBuffer().put(inputs[at].data);
            given[at] = values;
        }
        interpreter.allocateTensors();
        Floats[] outputs = new Floats[interpreter.getOutputTensorCount()];
        Map<Integer, Object> taken = new HashMap<>();
        for (int at = 0; at < outputs.length; at++) {
            int[] shape = interpreter.getOutputTensor(at).shape();
            outputs[at] = new Floats(Arrays.stream(shape).asLongStream().toArray());
            taken.put(at, ByteBuffer.allocateDirect(4 * outputs[at].data.length).order(ByteOrder.nativeOrder()));
        }
        interpreter.runForMultipleInputsOutputs(given, taken);
        for (int at = 0; at < outputs.length; at++) {
            ByteBuffer values = (ByteBuffer) taken.get(at);
            values.rewind();
            values.asFloatBuffer().get(outputs[at].data);
        }
        return outputs;
    }

    @Override
    public void close() {
        interpreter.close();
    }
}
