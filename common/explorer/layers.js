// The layers of a network, as layers.py writes them: a function for each kind, PyTorch's or a script's own. Values are
// flat; maps have their channels last, so that the numbers under a kernel's row are adjacent.

async function unpack(text) {  // whole numbers: the low bytes of all, then the high ones
  const packed = Uint8Array.from(atob(text), character => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer()), count = bytes.length / 2;
  return Uint16Array.from(bytes.subarray(0, count), (low, n) => low + 256 * bytes[count + n]);
}

// Turn the packed whole numbers of all layers into weights.
async function load(layers) {
  for (const layer of layers.filter(({unit}) => unit)) {
    const whole = await unpack(layer.weight), size = whole.length / layer.unit.length;
    layer.weight = Float32Array.from(whole, (value, n) => layer.unit[Math.floor(n / size)] * (value - layer.middle));
  }
}

const compute = {
  Linear(inputs, {weight, bias}) {
    return Float32Array.from(bias, (sum, row) => {
      for (let n = 0, at = row * inputs.length; n < inputs.length; n++) sum += inputs[n] * weight[at + n];
      return sum;
    });
  },

  Conv2d(inputs, {weight, bias, width, kernel: [rows, columns], stride: [downward, across], padding: [above, left]}) {
    const outputs = bias.length, length = weight.length / outputs / rows, channels = length / columns;
    const size = rows * length, height = inputs.length / width / channels, line = (width + 2 * left) * channels;
    const padded = new Float32Array((height + 2 * above) * line);  // zeros around, so that edges are not special
    for (let y = 0, row = width * channels; y < height; y++)
      padded.set(inputs.subarray(y * row, (y + 1) * row), (y + above) * line + left * channels);
    const wide = Math.floor((width + 2 * left - columns) / across) + 1;
    const high = Math.floor((height + 2 * above - rows) / downward) + 1;
    const result = new Float32Array(high * wide * outputs);
    // Four outputs at two pixels are computed together, since each number read serves several of the eight sums. If
    // that doesn't divide their counts, the last ones are computed more than once.
    for (let first = 0; first < outputs; first += 4) {
      const [a, b, c, d] = [0, 1, 2, 3].map(n => Math.min(first + n, outputs - 1));
      const toB = (b - a) * size, toC = (c - a) * size, toD = (d - a) * size;
      for (let y = 0; y < high; y++) for (let x = 0; x < wide; x += 2) {
        const next = Math.min(x + 1, wide - 1), toNext = (next - x) * across * channels;
        let a0 = bias[a], b0 = bias[b], c0 = bias[c], d0 = bias[d], a1 = a0, b1 = b0, c1 = c0, d1 = d0;
        for (let row = 0; row < rows; row++) {
          let w = a * size + row * length, at = (y * downward + row) * line + x * across * channels;
          for (const end = w + length; w < end; w++, at++) {
            const here = padded[at], beside = padded[at + toNext];
            const wa = weight[w], wb = weight[w + toB], wc = weight[w + toC], wd = weight[w + toD];
            a0 += here * wa; b0 += here * wb; c0 += here * wc; d0 += here * wd;
            a1 += beside * wa; b1 += beside * wb; c1 += beside * wc; d1 += beside * wd;
          }
        }
        const at = (y * wide + x) * outputs, then = (y * wide + next) * outputs;
        result[at + a] = a0; result[at + b] = b0; result[at + c] = c0; result[at + d] = d0;
        result[then + a] = a1; result[then + b] = b1; result[then + c] = c1; result[then + d] = d1;
      }
    }
    return result;
  },

  GroupNorm(inputs, {groups, eps, weight, bias}) {
    const channels = weight.length, count = inputs.length / groups;
    const group = n => Math.floor(n % channels * groups / channels);
    const means = new Float64Array(groups), variances = new Float64Array(groups);
    inputs.forEach((value, n) => { means[group(n)] += value / count; });
    inputs.forEach((value, n) => { variances[group(n)] += (value - means[group(n)]) ** 2 / count; });
    const scaled = inputs.map((value, n) => (value - means[group(n)]) / Math.sqrt(variances[group(n)] + eps));
    return scaled.map((value, n) => value * weight[n % channels] + bias[n % channels]);
  },

  LayerNorm: (inputs, layer) => compute.GroupNorm(inputs, layer),  // each number is a channel of a single pixel
  Residual: (inputs, layer) => compute.SiLU(compute.Linear(inputs, layer)).map((value, n) => inputs[n] + value),
  SiLU: inputs => inputs.map(value => value / (1 + Math.exp(-value))),

  PixelShuffle(inputs, {factor, width, channels}) {
    const result = new Float32Array(inputs.length), outputs = channels / factor ** 2;
    for (let n = 0; n < inputs.length; n++) {  // each channel goes to a place in its pixel's square
      const channel = n % channels, place = channel % factor ** 2, pixel = (n - channel) / channels;
      const x = pixel % width * factor + place % factor;
      const y = Math.floor(pixel / width) * factor + Math.floor(place / factor);
      result[(y * width * factor + x) * outputs + Math.floor(channel / factor ** 2)] = inputs[n];
    }
    return result;
  },

  // PyTorch's flat values have the channels first.
  Flatten: (inputs, {channels}) => transpose(inputs, channels),
  Unflatten: (inputs, {channels}) => transpose(inputs, inputs.length / channels),
};

function transpose(values, columns) {
  const rows = values.length / columns;
  return values.map((_, n) => values[n % rows * columns + Math.floor(n / rows)]);
}

const run = (layers, inputs) =>
  layers.reduce((values, layer) => compute[layer.kind](values, layer), Float32Array.from(inputs));
