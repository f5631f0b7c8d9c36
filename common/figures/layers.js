// The layers of a network, as layers.py writes them: a function for each kind, named after PyTorch's class. Values are
// flat; maps have their channels last, so that the numbers under a kernel's row are adjacent.

async function unpack(text, Values) {
  const bytes = Uint8Array.from(atob(text), character => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Values(await new Response(stream).arrayBuffer());
}

async function unpackNibbles(text) {  // two per byte
  const bytes = await unpack(text, Uint8Array), halves = new Uint8Array(2 * bytes.length);
  bytes.forEach((byte, n) => { halves[2 * n] = byte >> 4; halves[2 * n + 1] = byte & 15; });
  return halves;
}

// Turn the packed whole numbers of all layers into weights.
async function load(layers) {
  for (const layer of layers.filter(({unit}) => unit)) {
    const whole = await unpack(layer.weight, Int8Array), fine = layer.fine && await unpackNibbles(layer.fine);
    const size = whole.length / layer.unit.length;
    layer.weight = new Float32Array(whole.length);
    for (let row = 0, n = 0; row < layer.unit.length; row++)
      for (const end = n + size; n < end; n++)
        layer.weight[n] = layer.unit[row] * (fine ? 16 * whole[n] + fine[n] : whole[n]);
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
    const channels = weight.length, each = channels / groups, result = new Float32Array(inputs.length);
    for (let first = 0; first < channels; first += each) {
      const sum = term => {
        let total = 0;
        for (let at = first; at < inputs.length; at += channels)
          for (let n = at; n < at + each; n++) total += term(inputs[n]);
        return total / (inputs.length / groups);
      };
      const mean = sum(value => value), scale = 1 / Math.sqrt(sum(value => (value - mean) ** 2) + eps);
      for (let at = first; at < inputs.length; at += channels)
        for (let n = 0; n < each; n++)
          result[at + n] = (inputs[at + n] - mean) * scale * weight[first + n] + bias[first + n];
    }
    return result;
  },

  LayerNorm: (inputs, layer) => compute.GroupNorm(inputs, layer),  // each number is a channel of a single pixel
  Norm: (inputs, layer) => compute.GroupNorm(inputs, layer),
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

  FourierFeatures(inputs, {directions}) {
    const phases = directions.map(direction => direction.reduce((sum, value, n) => sum + value * inputs[n], 0));
    return Float32Array.from([...phases.map(Math.sin), ...phases.map(Math.cos)]);
  },
};

function transpose(values, columns) {
  const rows = values.length / columns;
  return values.map((_, n) => values[n % rows * columns + Math.floor(n / rows)]);
}

const run = (layers, inputs) =>
  layers.reduce((values, layer) => compute[layer.kind](values, layer), Float32Array.from(inputs));
