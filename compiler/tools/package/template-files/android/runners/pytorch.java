package @package@;

import java.io.File;

import android.content.Context;
import org.json.JSONObject;
import org.pytorch.IValue;
import org.pytorch.LiteModuleLoader;
import org.pytorch.LitePyTorchAndroid;
import org.pytorch.Module;
import org.pytorch.Tensor;

/** PyTorch's lite interpreter with the QNNPACK engine, which is its only one on phones. */
final class PytorchRunner implements Runner {
    private final Module module;

    private PytorchRunner(Module module) {
        this.module = module;
    }

    static Runner open(Context context, byte[] model, JSONObject deploy, int threads) throws Exception {
        File file = ModelFile.write(context, model, ".ptl");
        LitePyTorchAndroid.setNumThreads(threads);
        return new PytorchRunner(LiteModuleLoader.load(file.getPath()));
    }

    @Override
    public Floats[] run(Floats... inputs) {
        IValue[] given = new IValue[inputs.length];
        for (int at = 0; at < given.length; at++) {
            given[at] = IValue.from(Tensor.fromBlob(inputs[at].data, inputs[at].shape));
        }
        IValue answer = module.forward(given);
        IValue[] found = answer.isTuple() ? answer.toTuple() : new IValue[] {answer};
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
