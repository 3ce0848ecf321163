import CoreGraphics
import Foundation

/// The int8 model of this package.
///
///     let model = try Model(threads: 2)
///     for score in try model.classify(image, top: 5) { print(score.label, score.share) }
///
/// Not safe for use from several threads at once. Loading and running take time: do both off the main thread.
public final class Model {
    /// One class: its share is a probability, by softmax where the model gives none itself.
    public struct Score {
        public let index: Int
        public let label: String
        public let share: Float
    }

    let deploy: Deploy
    private let runner: Runner
    private let labels: [String]?

    /// Loads the model; its sha256 is checked first.
    public init(threads: Int = 1) throws {
        let deploy = try Deploy()
        _ = try deploy.read(deploy.modelFile)
        self.deploy = deploy
        labels = try deploy.labels.map { name in
            String(decoding: try deploy.read(name), as: UTF8.self).split(separator: "\n").map(String.init)
        }
        runner = try @runner@(path: deploy.url(deploy.modelFile).path, deploy: deploy, threads: threads)
    }

    /// The best classes of an image of any size, best first.
    public func classify(_ image: CGImage, top: Int = 5) throws -> [Score] {
        let input = try prepare(Pixels(image, channels: try deploy.image.form().channels))
        let scores = try run([input])[0].data
        let shares = Self.shares(scores)
        let order = scores.indices.sorted { scores[$0] != scores[$1] ? scores[$0] > scores[$1] : $0 < $1 }
        return order.prefix(top).map { Score(index: $0, label: labels?[$0] ?? "class \($0)", share: shares[$0]) }
    }

    /// What the model gives for inputs that are preprocessed already, in order.
    public func run(_ inputs: [Floats]) throws -> [Floats] {
        try runner.run(inputs)
    }

    /// An image as the model takes it: float32 [1, C, H, W].
    func prepare(_ pixels: Pixels) throws -> Floats {
        let form = try deploy.image.form()
        return pixels.fit(width: form.width, height: form.height).normalized(deploy.preprocess)
    }

    private static func shares(_ scores: [Float]) -> [Float] {
        let isProbability = scores.allSatisfy { $0 >= 0 } && abs(scores.reduce(0, +) - 1) < 1e-2
        if isProbability { return scores }
        let largest = scores.max() ?? 0
        let powers = scores.map { exp(Double($0 - largest)) }
        let total = powers.reduce(0, +)
        return powers.map { Float($0 / total) }
    }
}

/// A float32 tensor, the last axis fastest.
public struct Floats {
    public let shape: [Int]
    public var data: [Float]

    public init(shape: [Int], data: [Float]) {
        precondition(data.count == shape.reduce(1, *), "\(data.count) numbers do not fill \(shape)")
        self.shape = shape
        self.data = data
    }
}

/// A model loaded in its runtime.
protocol Runner {
    /// Outputs in order for inputs in order.
    func run(_ inputs: [Floats]) throws -> [Floats]
}

/// One sentence: what is wrong, and where.
public struct ModelError: LocalizedError {
    let text: String

    init(_ text: String) {
        self.text = text
    }

    public var errorDescription: String? { text }
}
