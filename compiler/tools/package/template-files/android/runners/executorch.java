package @package@;

import java.io.File;

import android.content.Context;
import org.json.JSONObject;
import org.pytorch.executorch.EValue;
import org.pytorch.executorch.Module;
import org.pytorch.executorch.Tensor;

/** ExecuTorch with its XNNPACK backend. */
final class ExecutorchRunner implements Runner {
    private final Module module;

    private ExecutorchRunner(Module module) {
        this.module = module;
    }

    static Runner open(Context context, byte[] model, JSONObject deploy, int threads) throws Exception {
        File file = ModelFile.write(context, model, ".pte");
        return new ExecutorchRunner(Module.load(file.getPath(), Module.LOAD_MODE_FILE, threads));
    }

    @Override
    public Floats[] run(Floats... inputs) {
        EValue[] given = new EValue[inputs.length];
        for (int at = 0; at < given.length; at++) {
            given[at] = EValue.from(Tensor.fromBlob(inputs[at].data, inputs[at].shape));
        }
        EValue[] found = module.forward(given);
        Floats[] outputs = new Floats[found.length];
        for (int at = 0; at < outputs.length; at++) {
            Tensor tensor = found[at].toTensor();
            outputs[at] = new Floats(tensor.getDataAsFloatArray(), tensor.shape());
        }
        return outputs;
    }

    @Override
    public void close() {
        module.destroy();
    }
}
