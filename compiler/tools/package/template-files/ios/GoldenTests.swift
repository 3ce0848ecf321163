import Foundation
import XCTest

@testable import @module@

/// Replays the compiler's golden vectors on this device, and compares the bits of the preprocessing.
final class GoldenTests: XCTestCase {
    func testPreprocessingIsTheCompilers() throws {
        let model = try Model()
        guard let check = model.deploy.imageCheck else { throw XCTSkip("this model takes no images") }
        let channels = try model.deploy.image.form().channels
        let pixels = Pixels.pattern(width: check.width, height: check.height, channels: channels)
        let made = try model.prepare(pixels).data.withUnsafeBytes { Data($0) }
        XCTAssertEqual(Deploy.sha256(made), check.sha256)
    }

    func testOutputsAreTheGoldenOnes() throws {
        let model = try Model()
        let deployed = try model.run(golden(model.deploy, model.deploy.golden.inputs))
        let expected = try golden(model.deploy, model.deploy.golden.outputs)
        XCTAssertEqual(deployed.count, expected.count)
        for (output, (left, right)) in zip(model.deploy.outputs, zip(deployed, expected)) {
            XCTAssertEqual(left.shape, right.shape)
            let off = zip(left.data, right.data).map { abs(Double($0) - Double($1)) }
            XCTAssertTrue(off.allSatisfy(\.isFinite), "\(output.name) has values that are not finite")
            check(output, model.deploy, off: off.max() ?? 0, magnitude: right.data.map { abs(Double($0)) }.max() ?? 0)
        }
    }

    private func golden(_ deploy: Deploy, _ vectors: [Deploy.Golden.Vector]) throws -> [Floats] {
        let resources = Bundle.module.resourceURL ?? Bundle.module.bundleURL
        let folder = resources.appendingPathComponent("ModelFiles")
        return try vectors.map { vector in
            let content = try deploy.read(vector.file, in: folder)
            return Floats(shape: vector.shape, data: content.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) })
        }
    }

    private func check(_ output: Deploy.Output, _ deploy: Deploy, off: Double, magnitude: Double) {
        guard let scale = output.scale else {
            let relative = off / max(magnitude, 1e-12)
            let text = "\(relative) of its magnitude from the golden outputs (allowed \(deploy.toleranceFloat))"
            XCTAssertLessThanOrEqual(relative, deploy.toleranceFloat, "\(output.name) is \(text)")
            return
        }
        // the compiler simulates the kernels of x86-64; some runtimes have others elsewhere
        #if arch(x86_64)
        let allowed = deploy.toleranceLsb
        #else
        let allowed = deploy.toleranceLsbElsewhere
        #endif
        let lsb = Int((off / scale).rounded())
        XCTAssertLessThanOrEqual(lsb, allowed, "\(output.name) is \(lsb) LSB from the golden outputs")
    }
}
