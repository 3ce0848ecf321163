import CryptoKit
import Foundation

/// deploy.json among the resources, and the files that it gives hashes of.
struct Deploy: Decodable {
    struct File: Decodable {
        let sha256: String
        let size: Int
    }

    struct Tensor: Decodable {
        let name: String
        let dtype: String
        let shape: [Int?]
    }

    struct Output: Decodable {
        let name: String
        let scale: Double?
    }

    struct Preprocess: Decodable {
        let scale: Double
        let mean: [Double]
        let std: [Double]
    }

    /// What images become, or why none can be given.
    struct Image: Decodable {
        struct Form {
            let width: Int
            let height: Int
            let channels: Int
        }

        let width: Int?
        let height: Int?
        let channels: Int?
        let refused: String?

        func form() throws -> Form {
            guard let width, let height, let channels else {
                throw ModelError("This model takes no images: \(refused ?? "no form is given"). Use run().")
            }
            return Form(width: width, height: height, channels: channels)
        }
    }

    struct ImageCheck: Decodable {
        let width: Int
        let height: Int
        let sha256: String
    }

    struct Golden: Decodable {
        struct Vector: Decodable {
            let file: String
            let shape: [Int]
        }

        let inputs: [Vector]
        let outputs: [Vector]
    }

    let modelFile: String
    let labels: String?
    let inputs: [Tensor]
    let outputs: [Output]
    let toleranceLsb: Int
    let toleranceLsbElsewhere: Int
    let toleranceFloat: Double
    let preprocess: Preprocess
    let image: Image
    let imageCheck: ImageCheck?
    let golden: Golden
    let files: [String: File]

    init() throws {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        self = try decoder.decode(Deploy.self, from: Data(contentsOf: Self.folder.appendingPathComponent("deploy.json")))
    }

    /// A resource that has the sha256 of deploy.json.
    func read(_ name: String, in folder: URL? = nil) throws -> Data {
        let content = try Data(contentsOf: (folder ?? Self.folder).appendingPathComponent(name))
        guard let file = files[name], Self.sha256(content) == file.sha256 else {
            throw ModelError("\(name) was changed: its sha256 is not the one in deploy.json.")
        }
        return content
    }

    func url(_ name: String) -> URL {
        Self.folder.appendingPathComponent(name)
    }

    static func sha256(_ content: Data) -> String {
        SHA256.hash(data: content).map { String(format: "%02x", $0) }.joined()
    }

    private static let folder = (Bundle.module.resourceURL ?? Bundle.module.bundleURL)
        .appendingPathComponent("ModelFiles")
}
