import Foundation
import OnnxRuntimeBindings

/// ONNX Runtime on the CPU, optimizer on.
final class OnnxruntimeRunner: Runner {
    private let environment: ORTEnv
    private let session: ORTSession
    private let inputs: [String]
    private let outputs: [String]

    init(path: String, deploy: Deploy, threads: Int) throws {
        environment = try ORTEnv(loggingLevel: .warning)
        let options = try ORTSessionOptions()
        try options.setIntraOpNumThreads(Int32(threads))
        try options.setGraphOptimizationLevel(.all)
        session = try ORTSession(env: environment, modelPath: path, sessionOptions: options)
        inputs = deploy.inputs.map(\.name)
        outputs = try session.outputNames()
    }

    func run(_ given: [Floats]) throws -> [Floats] {
        var feeds: [String: ORTValue] = [:]
        for (name, floats) in zip(inputs, given) {
            let bytes = floats.data.withUnsafeBytes { NSMutableData(bytes: $0.baseAddress, length: $0.count) }
            let shape = floats.shape.map { NSNumber(value: $0) }
            feeds[name] = try ORTValue(tensorData: bytes, elementType: .float, shape: shape)
        }
        let found = try session.run(withInputs: feeds, outputNames: Set(outputs), runOptions: nil)
        return try outputs.map { name in
            guard let value = found[name] else { throw ModelError("The model gives no output \(name).") }
            let shape = try value.tensorTypeAndShapeInfo().shape.map(\.intValue)
            let data = try value.tensorData() as Data
            return Floats(shape: shape, data: data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) })
        }
    }
}
