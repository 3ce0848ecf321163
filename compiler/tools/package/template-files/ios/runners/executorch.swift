import ExecuTorch
import Foundation

/// ExecuTorch with its XNNPACK backend. The thread count is the runtime's own choice.
final class ExecutorchRunner: Runner {
    private let module: Module

    init(path: String, deploy: Deploy, threads: Int) throws {
        module = Module(filePath: path)
        try module.load("forward")
    }

    func run(_ given: [Floats]) throws -> [Floats] {
        let inputs: [Tensor<Float>] = given.map { Tensor($0.data, shape: $0.shape) }
        return try module.forward(inputs).map { value in
            guard let tensor: Tensor<Float> = value.tensor() else {
                throw ModelError("The model gives an output that is no float tensor.")
            }
            return Floats(shape: tensor.shape, data: tensor.scalars())
        }
    }
}
