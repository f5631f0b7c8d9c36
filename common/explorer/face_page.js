const STRENGTH = 2;   // how far an attribute's slider goes, in differences of class means
const DEVIATIONS = 3; // how far a component's slider goes, in standard deviations of the training faces
const {size, mean, components} = content;

// Two faces: the ends of the walk. Each is {name, code, picture, rebuilt}; the last two are canvases, and picture is
// null if there is no original.
const ends = [null, null];
const sliders = [];  // {input, direction}
const faces = [];    // the test faces
let marked = 0;      // the end that the next face replaces

// ---- The networks, in a worker --------------------------------------------------------------------------------

const source = new Blob([$("worker").textContent], {type: "text/javascript"});
const worker = new Worker(URL.createObjectURL(source)), waiting = new Map();
let asked = 0;
worker.onmessage = ({data: {number, outputs, error}}) => {
  const {resolve, reject} = waiting.get(number);
  waiting.delete(number);
  if (error) reject(error); else resolve(outputs);
};
worker.onerror = ({message}) => fail(message);
const ask = message => new Promise((resolve, reject) => {
  waiting.set(++asked, {resolve, reject});
  worker.postMessage({number: asked, ...message});
});

// Faces and pictures are flat: `size` rows of pixels of three numbers in [0, 1], which a decoded face may exceed.
const decode = code => ask({name: "decoder", inputs: code});
const encode = async picture => (await ask({name: "encoder", inputs: picture})).subarray(0, mean.length);

// ---- Drawing --------------------------------------------------------------------------------------------------

const blank = () => Object.assign(document.createElement("canvas"), {width: size, height: size, className: "face"});

// Paint a face onto a canvas of its size, or enlarge it smoothly onto a larger one.
function show(canvas, values) {
  const small = canvas.width === size ? canvas : blank(), context = small.getContext("2d");
  const pixels = context.createImageData(size, size);
  for (let n = 0; n < size ** 2; n++) {
    for (let colour = 0; colour < 3; colour++) pixels.data[4 * n + colour] = 255 * values[3 * n + colour];  // clipped
    pixels.data[4 * n + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
  if (small === canvas) return canvas;
  const large = canvas.getContext("2d");
  large.imageSmoothingQuality = "high";
  large.drawImage(small, 0, 0, canvas.width, canvas.height);
}

function copied(canvas) {
  const copy = blank();
  copy.getContext("2d").drawImage(canvas, 0, 0);
  return copy;
}

const tile = ({picture, rebuilt}) => [picture, rebuilt].filter(Boolean).map(copied);

// ---- The face that is shown -----------------------------------------------------------------------------------

// The code of the place on the walk, moved along every slider's direction.
function place() {
  const share = Number($("walk").value), [first, second] = ends.map(({code}) => code);
  const code = first.map((start, n) => start + share * (second[n] - start));
  for (const {input, direction} of sliders)
    if (Number(input.value)) direction.forEach((step, n) => { code[n] += input.value * step; });
  return code;
}

// A function that has `task` run once more after its last call, but never twice at once.
const working = new Set();
function newest(task) {
  let stale = false;
  return async () => {
    stale = true;
    if (working.has(task)) return;
    working.add(task);
    try {
      while (stale) { stale = false; await task(); }
    } finally {
      working.delete(task);
    }
  };
}

const refresh = newest(async () => show($("face"), await decode(place())));

function describe() {
  const share = Number($("walk").value), [first, second] = ends.map(({name}) => name);
  const moved = sliders.some(({input}) => Number(input.value)) ? ", moved" : "";
  const where = share === 0 ? first : share === 1 ? second : `${Math.round(100 * share)}% of the way from ${first} to ${second}`;
  $("caption").textContent = where + moved;
}

const update = () => { describe(); refresh(); };

function mark(end) {
  marked = end;
  [$("first"), $("second")].forEach((button, n) => button.setAttribute("aria-pressed", n === end));
  $("walk").value = end;
  pause();
  update();
}

function put(face, end) {
  const button = end ? $("second") : $("first");
  ends[end] = face;
  button.setAttribute("aria-label", `${end ? "To" : "From"} ${face.name}`);
  button.replaceChildren(...tile(face));
}

// Put a face at the marked end, and go there.
function choose(face) {
  put(face, marked);
  mark(marked);
}

// The reconstruction takes a moment; then the face is chosen, unless a later one was.
let latest;
async function take(name, code, picture = null) {
  const face = latest = {name, code, picture};
  face.rebuilt = show(blank(), await decode(code));
  if (latest === face) choose(face);
}

// ---- Interaction ----------------------------------------------------------------------------------------------

function addSlider(where, name, direction, reach) {
  const row = document.createElement("label"), value = document.createElement("output");
  const input = Object.assign(document.createElement("input"), {type: "range", min: -reach, max: reach, step: 0.05});
  const tell = () => { value.textContent = input.value > 0 ? `+${input.value}` : input.value.replace("-", "−"); };
  value.setAttribute("aria-hidden", true);  // the slider has the same number
  row.append(Object.assign(document.createElement("span"), {textContent: name}), input, value);
  where.append(row);
  sliders.push({input, direction});
  input.oninput = () => { tell(); update(); };
  input.ondblclick = () => { input.value = 0; input.oninput(); };
  input.value = 0;
  tell();
}

function addSliders() {
  const {attributes, shares} = content;
  for (const {name, first, direction} of attributes)
    addSlider($(first ? "attributes" : "more"), name, direction, STRENGTH);
  $("labelled").hidden = !attributes.length;
  $("more").hidden = attributes.every(({first}) => first);
  shares.forEach((share, n) => {
    addSlider($("components"), `${n + 1} (${Math.round(100 * share)}%)`, components[n], DEVIATIONS);
  });
}

async function addFaces() {
  const sheet = Object.assign(new Image(), {src: content.faces.pictures});
  await sheet.decode();
  for (const [n, code] of content.faces.codes.entries()) {
    const face = {name: `test face ${n + 1}`, code, picture: blank(), rebuilt: blank()};
    face.picture.getContext("2d").drawImage(sheet, -n * size, 0);
    show(face.rebuilt, await decode(code));
    const button = Object.assign(document.createElement("button"), {className: "tile"});
    button.setAttribute("aria-label", face.name);
    button.append(...tile(face));
    button.onclick = () => { latest = face; choose(face); };
    $("strip").append(button);
    faces.push(face);
    if (n === 0) { put(face, 0); put(face, 1); update(); listen(); }
    if (n === 1 && ends[1] === faces[0]) { put(face, 1); update(); }
  }
}

function listen() {
  listenToPicture();
  listenToWalk(update);
  $("first").onclick = () => mark(0);
  $("second").onclick = () => mark(1);
  $("prior").onclick = () => take("a random face from N(0, I)", mean.map(() => normal()[0]));
  $("fitted").onclick = () => {
    const code = components.reduce((code, component) => {
      const [deviations] = normal();
      return code.map((value, n) => value + deviations * component[n]);
    }, mean);
    take("a random face from the codes' Gaussian", code);
  };
  $("reset").onclick = () => {
    for (const {input} of sliders) { input.value = 0; input.oninput(); }
    mark(0);
  };
}

async function begin() {
  document.title = $("title").textContent = content.title;
  const celeba = content.source === "CelebA" ? " CelebA's licence forbids passing them on: don't share this page." : "";
  $("footer").textContent = `This page holds ${content.faces.codes.length} pictures (${content.source}).${celeba}`;
  const {encoder, decoder} = content;
  await ask({networks: {encoder, decoder}});
  addSliders();
  await addFaces();
}
