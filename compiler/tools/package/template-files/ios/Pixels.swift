import CoreGraphics
import Foundation

/// Interleaved 8-bit channels, and what becomes of them before the model sees them, with the bits of the compiler:
/// Pillow's integer resampling of the largest centred part, then x * scale - mean, / std in Float, rounded each time.
struct Pixels {
    let width: Int
    let height: Int
    let channels: Int
    var data: [UInt8]

    init(width: Int, height: Int, channels: Int) {
        self.width = width
        self.height = height
        self.channels = channels
        data = [UInt8](repeating: 0, count: width * height * channels)
    }

    /// Alpha is dropped; one channel is luma as Pillow's "L".
    init(_ image: CGImage, channels: Int) throws {
        self.init(width: image.width, height: image.height, channels: channels)
        var rgbx = [UInt8](repeating: 0, count: 4 * width * height)
        let drawn = rgbx.withUnsafeMutableBytes { bytes -> Bool in
            guard
                let space = CGColorSpace(name: CGColorSpace.sRGB),
                let context = CGContext(
                    data: bytes.baseAddress, width: width, height: height, bitsPerComponent: 8, bytesPerRow: 4 * width,
                    space: space, bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)
            else { return false }
            context.draw(image, in: CGRect(x: 0, y: 0, width: width, height: height))
            return true
        }
        if !drawn { throw ModelError("The image of \(width) x \(height) pixels cannot be drawn.") }
        for at in 0..<(width * height) {
            let (red, green, blue) = (Int(rgbx[4 * at]), Int(rgbx[4 * at + 1]), Int(rgbx[4 * at + 2]))
            if channels == 1 {
                data[at] = UInt8((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16)
            } else {
                data[3 * at] = UInt8(red)
                data[3 * at + 1] = UInt8(green)
                data[3 * at + 2] = UInt8(blue)
            }
        }
    }

    /// The image with which every package checks its preprocessing.
    static func pattern(width: Int, height: Int, channels: Int) -> Pixels {
        var made = Pixels(width: width, height: height, channels: channels)
        var at = 0
        for y in 0..<height {
            for x in 0..<width {
                for c in 0..<channels {
                    made.data[at] = UInt8((x * 7 + y * 13 + c * 29 + x * y / 8) % 256)
                    at += 1
                }
            }
        }
        return made
    }

    /// The largest centred part with the wanted aspect ratio, resized: PIL.ImageOps.fit, bilinear and antialiased.
    func fit(width toWidth: Int, height toHeight: Int) -> Pixels {
        let ratio = Double(toWidth) / Double(toHeight)
        let own = Double(width) / Double(height)
        let cropWidth = own > ratio ? ratio * Double(height) : Double(width)
        let cropHeight = own < ratio ? Double(width) / ratio : Double(height)
        let left = (Double(width) - cropWidth) * 0.5
        let top = (Double(height) - cropHeight) * 0.5
        let columns = Taps.along(size: width, from: Float(left), to: Float(left + cropWidth), count: toWidth)
        let rows = Taps.along(size: height, from: Float(top), to: Float(top + cropHeight), count: toHeight)
        return resampledColumns(columns).resampledRows(rows)
    }

    /// float32 channels first, for a batch of one.
    func normalized(_ steps: Deploy.Preprocess) -> Floats {
        let area = width * height
        let scale = Float(steps.scale)
        var made = [Float](repeating: 0, count: channels * area)
        for c in 0..<channels {
            let mean = steps.mean.isEmpty ? nil : Float(steps.mean[steps.mean.count == 1 ? 0 : c])
            let std = steps.std.isEmpty ? nil : Float(steps.std[steps.std.count == 1 ? 0 : c])
            for at in 0..<area {
                var x = Float(data[at * channels + c])
                if steps.scale != 1 { x *= scale }
                if let mean { x -= mean }
                if let std { x /= std }
                made[c * area + at] = x
            }
        }
        return Floats(shape: [1, channels, height, width], data: made)
    }

    private func resampledColumns(_ columns: [Taps]) -> Pixels {
        var made = Pixels(width: columns.count, height: height, channels: channels)
        var out = 0
        for y in 0..<height {
            for taps in columns {
                for c in 0..<channels {
                    made.data[out] = taps.sum(data, from: (y * width + taps.first) * channels + c, step: channels)
                    out += 1
                }
            }
        }
        return made
    }

    private func resampledRows(_ rows: [Taps]) -> Pixels {
        let stride = width * channels
        var made = Pixels(width: width, height: rows.count, channels: channels)
        var out = 0
        for taps in rows {
            for x in 0..<stride {
                made.data[out] = taps.sum(data, from: taps.first * stride + x, step: stride)
                out += 1
            }
        }
        return made
    }
}

/// Where the pixels of one output position start, and their weights in units of 2^-22.
private struct Taps {
    static let precision = 22

    let first: Int
    let weights: [Int]

    static func along(size: Int, from start: Float, to end: Float, count: Int) -> [Taps] {
        let scale = Double(end - start) / Double(count)
        let support = max(scale, 1)
        return (0..<count).map { at in
            let center = Double(start) + (Double(at) + 0.5) * scale
            let first = max(Int(center - support + 0.5), 0)
            let last = min(Int(center + support + 0.5), size)
            let weights = (first..<last).map { max(1 - abs((Double($0) - center + 0.5) * (1 / support)), 0) }
            let sum = weights.reduce(0, +)
            return Taps(first: first, weights: weights.map { Int(0.5 + $0 / sum * Double(1 << precision)) })
        }
    }

    func sum(_ data: [UInt8], from: Int, step: Int) -> UInt8 {
        var sum = 1 << (Taps.precision - 1)
        var at = from
        for weight in weights {
            sum += Int(data[at]) * weight
            at += step
        }
        return UInt8(sum >> Taps.precision)
    }
}
