"use strict";
// The network, layer by layer. Activations are { shape, values }: [rows, columns, channels] in
// Flax's memory order, or [units].

const LAYERS = {
  conv(layer, { shape: [height, width], values }) {
    const { kernel, bias, padding, strides } = layer;
    const [side, , inputs, features] = kernel.shape;
    const [rows, above] = windows(height, side, strides, padding);
    const [columns, before] = windows(width, side, strides, padding);
    const output = new Float32Array(rows * columns * features);
    const sum = new Float64Array(features);
    const seen = inputsOf(kernel);
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        sum.set(bias.values);
        seen.count = 0;
        for (let i = 0; i < side; i++) {
          const row = y * strides + i - above;
          if (row < 0 || row >= height) continue;
          for (let j = 0; j < side; j++) {
            const column = x * strides + j - before;
            if (column < 0 || column >= width) continue;
            see(seen, values, (row * width + column) * inputs, inputs, (i * side + j) * inputs);
          }
        }
        addProducts(sum, seen, kernel.values);
        output.set(sum, (y * columns + x) * features);
      }
    }
    return { shape: [rows, columns, features], values: output };
  },

  dense({ kernel, bias }, { values }) {
    const sum = Float64Array.from(bias.values);
    const seen = inputsOf(kernel);
    see(seen, values, 0, values.length, 0);
    addProducts(sum, seen, kernel.values);
    return { shape: [sum.length], values: Float32Array.from(sum) };
  },

  // Padding is ignored, which is the same as padding with -infinity.
  max_pool: ({ padding }, input) =>
    pool(input, padding, (found) => found.reduce((most, one) => Math.max(most, one))),

  avg_pool: (_, input) => pool(input, 0, (found) => found.reduce((sum, one) => sum + one) / 4),

  global_avg_pool(_, { shape: [height, width, channels], values }) {
    const mean = new Float64Array(channels);
    values.forEach((v, i) => (mean[i % channels] += v / (height * width)));
    return { shape: [channels], values: Float32Array.from(mean) };
  },

  // A residual block's sum: adds the block's input, which is activation number `from`.
  add: ({ from }, input, found) => each(input, (v, i) => v + found[from].values[i]),

  // Batch normalisation in evaluation mode, and classic dropout's scaling.
  affine({ scale, offset }, { shape, values }) {
    const channels = scale.values.length;
    const changed = values.map((v, i) => v * scale.values[i % channels] + offset.values[i % channels]);
    return { shape, values: changed };
  },

  flatten: (_, { values }) => ({ shape: [values.length], values }),
  dropout: (_, input) => input,
  relu: (_, input) => each(input, (v) => Math.max(v, 0)),
  sigmoid: (_, input) => each(input, (v) => 1 / (1 + Math.exp(-v))),
  tanh: (_, input) => each(input, Math.tanh),

  // Transforms of some recipes, applied to an image before the network.
  standardize(_, input) {
    const { values } = input;
    const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
    const square = values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length;
    const varied = values.some((v) => v !== values[0]);
    return each(input, (v) => (varied ? (v - mean) / Math.sqrt(square) : 0));
  },

  // Converts to 8-bit values and resizes with weights in units of 2^-22, with Pillow's rounding.
  resize({ weights }, { shape, values }) {
    const side = shape[0];
    const along = (from, step, at) => {
      let sum = 0;
      for (let i = 0; i < side; i++) sum += weights.values[at * side + i] * from[step(i)];
      return Math.min(Math.max(Math.floor(sum / 2 ** 22 + 0.5), 0), 255);
    };
    const bytes = values.map((v) => Math.round(Math.min(Math.max(v, 0), 1) * 255));
    const narrow = bytes.map((_, i) => along(bytes, (j) => i - (i % side) + j, i % side));
    const small = narrow.map((_, i) => along(narrow, (j) => j * side + (i % side), Math.floor(i / side)));
    return each({ shape, values: small }, (v) => v / 255);
  },
};

// A buffer for the non-zero inputs of an output; `rows` has the offset of each one's weights.
function inputsOf({ shape }) {
  const most = shape.slice(0, -1).reduce((product, size) => product * size);
  return { count: 0, features: shape.at(-1), values: new Float64Array(most), rows: new Int32Array(most) };
}

// Appends `count` inputs with consecutive weights, without zeros, which are many after ReLU.
function see(seen, values, from, count, row) {
  for (let i = 0; i < count; i++) {
    const value = values[from + i];
    if (value === 0) continue;
    seen.values[seen.count] = value;
    seen.rows[seen.count++] = (row + i) * seen.features;
  }
}

// Adds to every output the products of its inputs and weights. Four outputs at a time are summed
// in variables, because array accesses would take longer than the products.
function addProducts(sum, { count, features, values, rows }, weights) {
  let f = 0;
  for (; f + 4 <= features; f += 4) {
    let [a, b, c, d] = [sum[f], sum[f + 1], sum[f + 2], sum[f + 3]];
    for (let i = 0; i < count; i++) {
      const value = values[i];
      const at = rows[i] + f;
      a += value * weights[at];
      b += value * weights[at + 1];
      c += value * weights[at + 2];
      d += value * weights[at + 3];
    }
    sum.set([a, b, c, d], f);
  }
  for (; f < features; f++) {
    for (let i = 0; i < count; i++) sum[f] += values[i] * weights[rows[i] + f];
  }
}

// The number of windows along a side, and the padding before it.
function windows(size, side, strides, padding) {
  if (padding !== "SAME") return [Math.floor((size + 2 * padding - side) / strides) + 1, padding];
  const count = Math.ceil(size / strides);
  return [count, Math.max((count - 1) * strides + side - size, 0) >> 1];
}

function pool({ shape: [height, width, channels], values }, padding, reduce) {
  const [rows, above] = windows(height, 2, 2, padding);
  const [columns, before] = windows(width, 2, 2, padding);
  const output = new Float32Array(rows * columns * channels);
  for (let i = 0; i < output.length; i++) {
    const place = Math.floor(i / channels);
    const top = 2 * Math.floor(place / columns) - above;
    const left = 2 * (place % columns) - before;
    const found = [];
    for (let y = Math.max(top, 0); y < Math.min(top + 2, height); y++) {
      for (let x = Math.max(left, 0); x < Math.min(left + 2, width); x++) {
        found.push(values[(y * width + x) * channels + (i % channels)]);
      }
    }
    output[i] = reduce(found);
  }
  return { shape: [rows, columns, channels], values: output };
}

function each({ shape, values }, change) {
  return { shape, values: values.map(change) };
}

// Decodes the arrays in the network's JSON from Base64.
function decode(network) {
  for (const layer of [...network.transforms, ...network.layers]) {
    for (const array of Object.values(layer)) {
      if (array?.values === undefined) continue;
      const bytes = Uint8Array.from(atob(array.values), (c) => c.charCodeAt(0));
      array.values = new Float32Array(bytes.buffer);
    }
  }
  return network;
}

// The outputs of all layers for 28×28 bytes, in order; the last is the network's output.
function outputs(network, bytes) {
  let x = { shape: [28, 28, 1], values: Float32Array.from(bytes, (v) => v / 255) };
  for (const transform of network.transforms) x = LAYERS[transform.op](transform, x);
  x = each(x, (v) => (v - network.mean) / network.std);
  const found = [x];
  for (const layer of network.layers) found.push(LAYERS[layer.op](layer, found.at(-1), found));
  return found.slice(1);
}

function probabilities(network, logits) {
  // A network trained on squared errors outputs probabilities already, but they need not sum to 1.
  const most = Math.max(...logits);
  const positive = network.softmax
    ? Array.from(logits, (v) => Math.exp(v - most))
    : Array.from(logits, (v) => Math.max(v, 1e-6));
  const sum = positive.reduce((a, b) => a + b);
  return positive.map((v) => v / sum);
}
