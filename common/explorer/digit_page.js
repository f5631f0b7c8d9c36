const PICTURE = 28;    // pixels per side of a decoded image
const STEPS = 12;      // images per row of the strip and of the samples
const SAMPLES = 24;
const REACH = 12;      // pixels within which a test image is shown with the place
const STRAY = 4;       // pixels that a click may move
const CLOSEST = 0.01;  // the smallest share of the area that the map can show

const {area, classes, encoder, decoder} = content;

const view = {...area};    // the part of the area that the map shows: left, bottom, side
const chosen = new Set();  // labels of the classes that are shown; all are, if none is chosen
const visible = label => !chosen.size || chosen.has(label);
let points, labels, originals;
// In latent coordinates: the place that is decoded, the ends of the line, the random samples.
let place = classes[0].place, ends = classes.slice(0, 2).map(({place}) => place), samples = [];

// ---- The data -------------------------------------------------------------------------------------------------

const sigmoid = logits => logits.map(logit => 1 / (1 + Math.exp(-logit)));

// The grey levels in [0, 1] of the image at a place.
const decode = place => sigmoid(run(decoder, place));

// A test image's grey levels in [0, 1].
const original = n =>
  Float32Array.from(originals.subarray(n * PICTURE ** 2, (n + 1) * PICTURE ** 2), level => level / 15);

// The visible test image nearest to the place, or -1 if none is within reach.
function nearest() {
  let found = -1, least = (REACH * view.side / $("map").clientWidth) ** 2;
  for (let n = 0; n < labels.length; n++) {
    const distance = (points[2 * n] - place[0]) ** 2 + (points[2 * n + 1] - place[1]) ** 2;
    if (distance < least && visible(labels[n])) [found, least] = [n, distance];
  }
  return found;
}

const onLine = share => ends[0].map((start, axis) => start + share * (ends[1][axis] - start));

// ---- Drawing --------------------------------------------------------------------------------------------------

// Images of grey levels in [0, 1], as black of that opacity, in rows.
function show(canvas, images) {
  const columns = Math.min(images.length, STEPS);
  canvas.width = PICTURE * columns;
  canvas.height = PICTURE * Math.ceil(images.length / columns);
  const context = canvas.getContext("2d"), pixels = context.createImageData(PICTURE, PICTURE);
  images.forEach((image, n) => {
    image.forEach((grey, pixel) => { pixels.data[4 * pixel + 3] = Math.round(255 * grey); });
    context.putImageData(pixels, PICTURE * (n % columns), PICTURE * Math.floor(n / columns));
  });
}

const colour = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);

// An empty map to draw on, in CSS pixels.
function clear(canvas) {
  const context = canvas.getContext("2d");
  canvas.width = canvas.height = canvas.clientWidth * devicePixelRatio;
  context.scale(devicePixelRatio, devicePixelRatio);
  return context;
}

// A place on the map: in shares of its width, and in pixels.
const toShares = ([x, y]) => [(x - view.left) / view.side, 1 - (y - view.bottom) / view.side];
const toPixels = place => {
  const [x, y] = toShares(place), width = $("map").clientWidth;
  return [x * width, y * width];
};

function write(context, text, [x, y], style, font, align = "center") {
  Object.assign(context, {font: `${font} system-ui, sans-serif`, textAlign: align, textBaseline: "middle",
                          lineJoin: "round", lineWidth: 4, strokeStyle: colour("paper"), fillStyle: style});
  context.strokeText(text, x, y);
  context.fillText(text, x, y);
}

function ring(context, [x, y], radius, style, width) {
  Object.assign(context, {strokeStyle: style, lineWidth: width});
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.stroke();
}

function drawMap() {
  const context = clear($("points")), width = $("map").clientWidth;
  const rough = view.side / 6, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(step => step >= rough);
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  for (const axis of [0, 1]) {
    const low = axis ? view.bottom : view.left, align = axis ? "left" : "center";
    for (let n = Math.ceil(low / step); n * step < low + view.side; n++) {
      const at = toPixels([n * step, n * step])[axis];
      context.fillStyle = colour("edge");
      context.fillRect(...(axis ? [0, at, width, 0.5] : [at, 0, 0.5, width]));
      const text = (n * step).toFixed(digits).replace("-", "−");
      if (at < 40 || at > width - 40) continue;
      write(context, text, axis ? [6, at] : [at, width - 10], colour("faint"), "12px", align);
    }
  }

  const radius = 2 * (area.side / view.side) ** 0.35;
  const colours = new Map(classes.map(({label, colour}) => [label, colour]));
  context.globalAlpha = 0.75;
  for (let n = 0; n < labels.length; n++) {
    if (!visible(labels[n])) continue;
    context.fillStyle = colours.get(labels[n]);
    context.beginPath();
    context.arc(...toPixels([points[2 * n], points[2 * n + 1]]), radius, 0, 2 * Math.PI);
    context.fill();
  }
  context.globalAlpha = 1;

  for (const sigma of content.prior ? [1, 2] : []) {
    context.setLineDash([5, 4]);
    ring(context, toPixels([0, 0]), sigma / view.side * width, colour("ink"), 1.2);
    context.setLineDash([]);
    write(context, `${sigma}σ`, toPixels([0, sigma]), colour("ink"), "13px");
  }
  write(context, "latent dimension 1", [width - 8, width - 28], colour("faint"), "12px", "right");
  write(context, "latent dimension 2", [8, 14], colour("faint"), "12px", "left");
}

function drawMarks() {
  const context = clear($("marks"));
  for (const [x, y] of samples.map(toPixels)) {
    context.fillStyle = colour("paper");
    context.fillRect(x - 5, y - 5, 10, 10);
    context.fillStyle = colour("ink");
    context.fillRect(x - 3.5, y - 3.5, 7, 7);
  }
  for (const [style, width] of [[colour("paper"), 6], [colour("ink"), 2.5]]) {
    Object.assign(context, {strokeStyle: style, lineWidth: width});
    context.beginPath();
    [...ends, ...(ends.length === 1 ? [place] : [])].forEach(end => context.lineTo(...toPixels(end)));
    context.stroke();
    for (const end of ends) ring(context, toPixels(end), 4, style, width);
    ring(context, toPixels(place), 10, style, width);
  }
  const named = classes.filter(({label}) => visible(label)), font = named.length > 10 ? "bold 12px" : "bold 18px";
  for (const {name, place} of named.length > 20 ? [] : named)  // more would hide the dots
    write(context, name.replace(/^(.{13}).{2,}/u, "$1…"), toPixels(place), colour("ink"), font);
  if (mine) drawMine(context);
}

function drawPlace() {
  show($("decoded"), [decode(place)]);
  $("place").textContent = `decoded at (${place.map(value => value.toFixed(2).replace("-", "−")).join(", ")})`;
}

function drawNearest() {
  const found = nearest();
  show($("original"), [found < 0 ? new Float32Array(PICTURE ** 2) : original(found)]);
  $("caption").textContent = found < 0 ? "no test image here"
    : `test image ${found + 1}, class ${classes.find(({label}) => label === labels[found]).name}`;
}

function drawLine() {
  const whole = ends.length === 2, shares = Array.from({length: STEPS}, (_, step) => step / (STEPS - 1));
  show($("strip"), shares.map(share => whole ? decode(onLine(share)) : new Float32Array(PICTURE ** 2)));
  $("line").textContent = whole ? "decoded along the line" : "click where the line should end";
  $("play").disabled = $("walk").disabled = !whole;
}

// ---- Interaction ----------------------------------------------------------------------------------------------

function look(left, bottom, side) {
  view.side = side;
  view.left = clamp(left, area.left, area.left + area.side - side);
  view.bottom = clamp(bottom, area.bottom, area.bottom + area.side - side);
  later(drawMap, drawMarks, drawNearest);  // the test image that is shown must be near the place on the screen
}

function moveTo([x, y]) {
  place = [clamp(x, area.left, area.left + area.side), clamp(y, area.bottom, area.bottom + area.side)];
  reveal(place);
  later(drawPlace, drawNearest, drawMarks);
}

function reveal([x, y]) {
  const left = clamp(view.left, x - view.side, x), bottom = clamp(view.bottom, y - view.side, y);
  if (left !== view.left || bottom !== view.bottom) look(left, bottom, view.side);
}

function click() {
  pause();
  ends = ends.length === 1 ? [ends[0], place] : [place];
  $("walk").value = ends.length - 1;  // the end at the place
  later(drawLine, drawMarks);
  if (nearest() >= 0) take(nearest());
}

// Move the point at one place of the map to another, and zoom by a factor there; both are shares of the map's width.
function drag(from, to, factor = 1) {
  const side = clamp(view.side * factor, area.side * CLOSEST, area.side);
  const x = view.left + from.x * view.side, y = view.bottom + (1 - from.y) * view.side;
  look(x - to.x * side, y - (1 - to.y) * side, side);
}

const zoom = (factor, [x, y] = toShares(place)) => drag({x, y}, {x, y}, factor);

function listenToPointers(map) {
  let strayed, first;  // is this more than a click? where did it begin?
  const follow = ({x, y}) => {
    pause();
    moveTo([view.left + x * view.side, view.bottom + (1 - y) * view.side]);
  };
  listenToPan(map, drag, {
    hover: follow,
    press(now, count) {
      [strayed, first] = [count > 1, now];
      if (!strayed) follow(now);
    },
    one(before, now, {pointerType}) {
      strayed ||= Math.hypot(now.x - first.x, now.y - first.y) * map.clientWidth > STRAY;
      if (pointerType === "touch") follow(now);
      else if (strayed) drag(before, now);
    },
    release() { if (!strayed) click(); },
  });
}

const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1]};

function listenToKeys(map) {
  const nearer = () => zoom(0.8), farther = () => zoom(1.25), whole = () => zoom(Infinity);
  const others = {"+": nearer, "=": nearer, "-": farther, 0: whole, Enter: click};
  map.onkeydown = event => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in ARROWS || event.key in others)) return;
    event.preventDefault();
    if (event.key in others) return others[event.key]();
    pause();
    const step = view.side / (event.shiftKey ? 400 : 50);
    moveTo(place.map((value, axis) => value + step * ARROWS[event.key][axis]));
  };
}

function fillLegend() {
  for (const {label, name, colour} of classes) {
    const [row, box, dot, text] = ["label", "input", "i", "span"].map(kind => document.createElement(kind));
    box.type = "checkbox";
    box.onchange = () => { chosen[box.checked ? "add" : "delete"](label); later(drawMap, drawMarks, drawNearest); };
    dot.style.background = colour;
    row.title = text.textContent = name;
    row.append(box, dot, text);
    $("legend").append(row);
  }
}

async function begin() {
  document.title = $("title").textContent = content.title;
  const shares = await unpack(content.points);
  points = Float32Array.from(shares, (share, n) => (n % 2 ? area.bottom : area.left) + share / 65535 * area.side);
  labels = await unpack(content.labels);
  originals = await unpack(content.originals);
  await load(encoder);
  await load(decoder);
  await receiveDrawing();
  $("count").textContent = labels.length.toLocaleString("en");
  $("licence").hidden = !content.mnist;
  fillLegend();
  listenToPointers($("marks"));
  listenToKeys($("marks"));
  listenToField($("ink"));
  $("in").onclick = () => zoom(0.8, [0.5, 0.5]);
  $("out").onclick = () => zoom(1.25, [0.5, 0.5]);
  $("all").onclick = () => zoom(Infinity);
  listenToWalk(() => moveTo(onLine($("walk").value)));
  document.querySelectorAll(".vae").forEach(element => { element.hidden = !content.prior; });
  $("sample").onclick = () => {
    samples = Array.from({length: SAMPLES}, normal);
    $("samples").hidden = false;
    show($("samples"), samples.map(decode));
    later(drawMarks);
  };
  const redraw = () => later(drawMap, drawMarks);
  new ResizeObserver(redraw).observe($("map"));
  window.onresize = redraw;  // also when the browser zooms, and the map keeps its size
  matchMedia("(prefers-color-scheme: dark)").onchange = redraw;
  later(drawMap, drawPlace, drawNearest, drawLine, drawDrawing);
}
