// What is done to an image before the model sees it, with the bits of the compiler: Pillow's integer resampling of
// the largest centred part, then x * scale - mean, / std in float32, rounded after each step.

/** Interleaved uint8 channels, row by row. */
export class Pixels {
  constructor(width, height, channels, data = new Uint8ClampedArray(width * height * channels)) {
    Object.assign(this, { width, height, channels, data });
  }

  /** From RGBA as a canvas gives it: alpha dropped, or luma as Pillow's "L" where one channel is wanted. */
  static fromRgba({ width, height, data }, channels) {
    const made = new Pixels(width, height, channels);
    for (let at = 0; at < width * height; at++) {
      const [r, g, b] = data.subarray(4 * at, 4 * at + 3);
      if (channels === 1) made.data[at] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
      else made.data.set([r, g, b], 3 * at);
    }
    return made;
  }

  /** The image with which every package checks its preprocessing. */
  static pattern(width, height, channels) {
    const made = new Pixels(width, height, channels);
    let at = 0;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        for (let c = 0; c < channels; c++) made.data[at++] = (x * 7 + y * 13 + c * 29 + Math.floor((x * y) / 8)) % 256;
      }
    }
    return made;
  }
}

/** The largest centred part with the wanted aspect ratio, resized: PIL.ImageOps.fit, bilinear and antialiased. */
export function fit(pixels, width, height) {
  const ratio = width / height;
  let [cropWidth, cropHeight] = [pixels.width, pixels.height];
  if (cropWidth / cropHeight > ratio) cropWidth = ratio * cropHeight;
  else if (cropWidth / cropHeight < ratio) cropHeight = cropWidth / ratio;
  const left = (pixels.width - cropWidth) * 0.5;
  const top = (pixels.height - cropHeight) * 0.5;
  const across = taps(pixels.width, Math.fround(left), Math.fround(left + cropWidth), width);
  const down = taps(pixels.height, Math.fround(top), Math.fround(top + cropHeight), height);
  return resampleRows(resampleColumns(pixels, across), down);
}

/** For each output position, where its pixels start and their weights in units of 2^-22. */
function taps(size, start, end, count) {
  const scale = Math.fround(end - start) / count;
  const support = Math.max(scale, 1);
  return Array.from({ length: count }, (_, at) => {
    const center = start + (at + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const last = Math.min(Math.trunc(center + support + 0.5), size);
    const weights = [];
    for (let x = first; x < last; x++) {
      weights.push(Math.max(1 - Math.abs((x - center + 0.5) * (1 / support)), 0));
    }
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => Math.trunc(0.5 + (weight / sum) * 2 ** 22)) };
  });
}

function resampleColumns(from, columns) {
  const made = new Pixels(columns.length, from.height, from.channels);
  let out = 0;
  for (let y = 0; y < from.height; y++) {
    for (const { first, weights } of columns) {
      for (let c = 0; c < from.channels; c++) {
        let at = (y * from.width + first) * from.channels + c;
        let sum = 2 ** 21;
        for (const weight of weights) {
          sum += from.data[at] * weight;
          at += from.channels;
        }
        made.data[out++] = sum >> 22;
      }
    }
  }
  return made;
}

function resampleRows(from, rows) {
  const stride = from.width * from.channels;
  const made = new Pixels(from.width, rows.length, from.channels);
  let out = 0;
  for (const { first, weights } of rows) {
    for (let x = 0; x < stride; x++) {
      let at = first * stride + x;
      let sum = 2 ** 21;
      for (const weight of weights) {
        sum += from.data[at] * weight;
        at += stride;
      }
      made.data[out++] = sum >> 22;
    }
  }
  return made;
}

/** float32 channels first, for a batch of one. */
export function normalize({ width, height, channels, data }, { scale, mean, std }) {
  const made = new Float32Array(channels * height * width);
  const area = width * height;
  for (let c = 0; c < channels; c++) {
    const minus = mean.length ? Math.fround(mean[mean.length === 1 ? 0 : c]) : null;
    const by = std.length ? Math.fround(std[std.length === 1 ? 0 : c]) : null;
    for (let at = 0; at < area; at++) {
      let x = data[at * channels + c];
      if (scale !== 1) x = Math.fround(x * Math.fround(scale));
      if (minus !== null) x = Math.fround(x - minus);
      if (by !== null) x = Math.fround(x / by);
      made[c * area + at] = x;
    }
  }
  return made;
}
